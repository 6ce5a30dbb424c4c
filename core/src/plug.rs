//! Boxed plugins as Burn modules.
//!
//! [`Module`] has generic methods, so `Box<dyn Trait>` cannot be one. [`ErasedModule`] mirrors it
//! with object-safe methods and is implemented for every module; [`Plug`] wraps a boxed trait
//! object and is a [`Module`] again. Plugin authors derive `Module` and see none of this; Burn's
//! optimisers and records see one module whose parameter paths do not show the box.

use std::any::Any;
use std::fmt::Debug;

use burn::module::{
    Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param,
};
use burn::tensor::{Bool, Device, Float, Int, Tensor};
use replace_with::replace_with_or_abort;

pub use crate::named::{Boundary, Buffer, ByBoundary, BySite, Named};

/// The object-safe mirror of [`Module`]; every method that Burn writes as `self -> Self` works in
/// place here.
pub trait ErasedModule: Debug + Send + Sync + Any {
    /// [`Module::visit`].
    fn visit_erased(&self, visitor: &mut dyn ErasedVisitor);
    /// [`Module::map`].
    fn map_erased(&mut self, mapper: &mut dyn ErasedMapper);
    /// [`Module::collect_devices`].
    fn collect_devices_erased(&self, devices: Devices) -> Devices;
    /// [`Module::to_device`].
    fn to_device_erased(&mut self, device: &Device);
    /// [`Module::fork`].
    fn fork_erased(&mut self, device: &Device);
    /// [`Module::valid`].
    fn valid_erased(&mut self);
    /// [`Module::train`].
    fn train_erased(&mut self);
    /// [`Module::materialize`].
    fn materialize_erased(&mut self);
}

impl<M: Module + ModuleDisplay + Sync + 'static> ErasedModule for M {
    fn visit_erased(&self, visitor: &mut dyn ErasedVisitor) {
        self.visit(&mut VisitDown(visitor));
    }
    fn map_erased(&mut self, mapper: &mut dyn ErasedMapper) {
        replace_with_or_abort(self, |module| module.map(&mut MapDown(mapper)));
    }
    fn collect_devices_erased(&self, devices: Devices) -> Devices {
        self.collect_devices(devices)
    }
    fn to_device_erased(&mut self, device: &Device) {
        replace_with_or_abort(self, |module| module.to_device(device));
    }
    fn fork_erased(&mut self, device: &Device) {
        replace_with_or_abort(self, |module| module.fork(device));
    }
    fn valid_erased(&mut self) {
        *self = self.valid();
    }
    fn train_erased(&mut self) {
        replace_with_or_abort(self, Module::train);
    }
    fn materialize_erased(&mut self) {
        replace_with_or_abort(self, Module::materialize);
    }
}

/// A boxed plugin that is a [`Module`].
#[derive(Debug)]
pub struct Plug<T: ?Sized>(Box<T>);

impl<T: ?Sized> Clone for Plug<T>
where
    Box<T>: Clone,
{
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Plug<T> {
    /// Wraps a boxed plugin.
    pub fn new(plugin: Box<T>) -> Self {
        Self(plugin)
    }
}

impl<T: ?Sized> std::ops::Deref for Plug<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> std::ops::DerefMut for Plug<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Module for Plug<T>
where
    T: ErasedModule + ?Sized,
    Box<T>: Clone,
{
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit_erased(&mut VisitUp(visitor));
    }
    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        self.0.map_erased(&mut MapUp(mapper));
        self
    }
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices_erased(devices)
    }
    fn to_device(mut self, device: &Device) -> Self {
        self.0.to_device_erased(device);
        self
    }
    fn fork(mut self, device: &Device) -> Self {
        self.0.fork_erased(device);
        self
    }
    fn valid(&self) -> Self {
        let mut copy = self.clone();
        copy.0.valid_erased();
        copy
    }
    fn train(mut self) -> Self {
        self.0.train_erased();
        self
    }
    fn materialize(mut self) -> Self {
        self.0.materialize_erased();
        self
    }
}

impl<T: Debug + ?Sized> ModuleDisplayDefault for Plug<T> {
    fn content(&self, content: Content) -> Option<Content> {
        content.set_top_level_type("Plug").optional()
    }
}
impl<T: Debug + ?Sized> ModuleDisplay for Plug<T> {}

/// [`ModuleVisitor`] without generic methods: a parameter arrives as `&Param<Tensor<rank, ..>>`
/// behind [`Any`].
pub trait ErasedVisitor {
    /// A float parameter `&Param<Tensor<rank>>`.
    fn float(&mut self, rank: usize, param: &dyn Any);
    /// An integer parameter.
    fn int(&mut self, rank: usize, param: &dyn Any);
    /// A boolean parameter.
    fn bool(&mut self, rank: usize, param: &dyn Any);
    /// A flag.
    fn flag(&mut self, flag: &Param<Flag>);
    /// Entering a field.
    fn enter(&mut self, name: &str, container: &str);
    /// Leaving a field.
    fn exit(&mut self, name: &str, container: &str);
}

/// [`ModuleMapper`] without generic methods: a parameter arrives as `&mut Option<Param<..>>`
/// behind [`Any`] and is replaced there.
pub trait ErasedMapper {
    /// A float parameter `&mut Option<Param<Tensor<rank>>>`.
    fn float(&mut self, rank: usize, slot: &mut dyn Any);
    /// An integer parameter.
    fn int(&mut self, rank: usize, slot: &mut dyn Any);
    /// A boolean parameter.
    fn bool(&mut self, rank: usize, slot: &mut dyn Any);
    /// A flag.
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    /// Entering a field.
    fn enter(&mut self, name: &str, container: &str);
    /// Leaving a field.
    fn exit(&mut self, name: &str, container: &str);
}

/// Expands `$arm!(rank, ..)` for the constant that equals `$rank`: Burn's tensors have 1 to 8
/// dimensions here.
macro_rules! by_rank {
    ($rank:expr, $arm:ident!($($args:tt)*)) => {
        match $rank {
            1 => $arm!(1, $($args)*),
            2 => $arm!(2, $($args)*),
            3 => $arm!(3, $($args)*),
            4 => $arm!(4, $($args)*),
            5 => $arm!(5, $($args)*),
            6 => $arm!(6, $($args)*),
            7 => $arm!(7, $($args)*),
            8 => $arm!(8, $($args)*),
            rank => unreachable!("a parameter of rank {rank}"),
        }
    };
}

macro_rules! visit_arm {
    ($d:literal, $self:ident, $param:ident, $visit:ident, $kind:ty) => {
        if let Some(param) = $param.downcast_ref::<Param<Tensor<$d, $kind>>>() {
            $self.0.$visit(param);
        }
    };
}

macro_rules! map_arm {
    ($d:literal, $self:ident, $slot:ident, $map:ident, $kind:ty) => {
        if let Some(slot) = $slot.downcast_mut::<Option<Param<Tensor<$d, $kind>>>>() {
            *slot = slot.take().map(|param| $self.0.$map(param));
        }
    };
}

/// A typed visitor seen as an erased one.
pub(crate) struct VisitUp<'a, V>(pub(crate) &'a mut V);

impl<V: ModuleVisitor> ErasedVisitor for VisitUp<'_, V> {
    fn float(&mut self, rank: usize, param: &dyn Any) {
        by_rank!(rank, visit_arm!(self, param, visit_float, Float));
    }
    fn int(&mut self, rank: usize, param: &dyn Any) {
        by_rank!(rank, visit_arm!(self, param, visit_int, Int));
    }
    fn bool(&mut self, rank: usize, param: &dyn Any) {
        by_rank!(rank, visit_arm!(self, param, visit_bool, Bool));
    }
    fn flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

/// An erased visitor seen as a typed one.
struct VisitDown<'a>(&'a mut dyn ErasedVisitor);

impl ModuleVisitor for VisitDown<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.float(D, param);
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.int(D, param);
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.bool(D, param);
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.flag(flag);
    }
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.0.enter(name, container_type);
    }
    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.0.exit(name, container_type);
    }
}

/// A typed mapper seen as an erased one.
struct MapUp<'a, M>(&'a mut M);

impl<M: ModuleMapper> ErasedMapper for MapUp<'_, M> {
    fn float(&mut self, rank: usize, slot: &mut dyn Any) {
        by_rank!(rank, map_arm!(self, slot, map_float, Float));
    }
    fn int(&mut self, rank: usize, slot: &mut dyn Any) {
        by_rank!(rank, map_arm!(self, slot, map_int, Int));
    }
    fn bool(&mut self, rank: usize, slot: &mut dyn Any) {
        by_rank!(rank, map_arm!(self, slot, map_bool, Bool));
    }
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

/// An erased mapper seen as a typed one.
struct MapDown<'a>(&'a mut dyn ErasedMapper);

macro_rules! map_down {
    ($self:ident, $d:ident, $param:ident, $map:ident) => {{
        let mut slot = Some($param);
        $self.0.$map($d, &mut slot);
        // An erased mapper puts back what it takes: see `map_arm`.
        slot.unwrap_or_else(|| unreachable!("a mapper kept a parameter"))
    }};
}

impl ModuleMapper for MapDown<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        map_down!(self, D, param, float)
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        map_down!(self, D, param, int)
    }
    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        map_down!(self, D, param, bool)
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.flag(flag)
    }
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.0.enter(name, container_type);
    }
    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.0.exit(name, container_type);
    }
}
