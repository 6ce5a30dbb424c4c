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

/// Implements [`Module`] for a container by handing every call to its parts: `$parts` yields
/// `(name, module)` pairs and `$container` is the container type that visitors are told.
macro_rules! container_module {
    (impl[$($generics:tt)*] $ty:ty, $container:expr) => {
        impl<$($generics)*> Module for $ty {
            fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
                for (name, module) in self.parts() {
                    visitor.enter_module(&name, $container);
                    module.visit(visitor);
                    visitor.exit_module(&name, $container);
                }
            }
            fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
                self.map_parts(|name, module| {
                    mapper.enter_module(name, $container);
                    let module = Module::map(module, mapper);
                    mapper.exit_module(name, $container);
                    module
                })
            }
            fn collect_devices(&self, devices: Devices) -> Devices {
                self.parts().fold(devices, |devices, (_, m)| m.collect_devices(devices))
            }
            fn to_device(self, device: &Device) -> Self {
                self.map_parts(|_, module| module.to_device(device))
            }
            fn fork(self, device: &Device) -> Self {
                self.map_parts(|_, module| module.fork(device))
            }
            fn valid(&self) -> Self {
                self.clone().map_parts(|_, module| module.valid())
            }
            fn train(self) -> Self {
                self.map_parts(|_, module| module.train())
            }
            fn materialize(self) -> Self {
                self.map_parts(|_, module| module.materialize())
            }
        }
        impl<$($generics)*> ModuleDisplayDefault for $ty {
            fn content(&self, content: Content) -> Option<Content> {
                self.parts()
                    .fold(content, |content, (name, module)| {
                        content.add_debug_attribute(&name, module)
                    })
                    .optional()
            }
        }
        impl<$($generics)*> ModuleDisplay for $ty {}
    };
}

/// Modules under names: of sites ([`BySite`]), of boundaries ([`ByBoundary`]) or of methods.
///
/// The field that holds it does not show in parameter names: `factors: BySite<..>` yields
/// `blocks.0.attn.qkv.lora_A.weight`.
#[derive(Clone, Debug)]
pub struct Named<K, M>(Vec<(K, M)>);

/// Modules by canonical site name, for example `blocks.0.attn.qkv`.
pub type BySite<M> = Named<String, M>;
/// Modules by boundary, named `boundary.<index>`.
pub type ByBoundary<M> = Named<Boundary, M>;

/// The key of a [`ByBoundary`]: a boundary's index, printed as `boundary.<index>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary(pub usize);

impl std::fmt::Display for Boundary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "boundary.{}", self.0)
    }
}

impl<K, M> FromIterator<(K, M)> for Named<K, M> {
    fn from_iter<I: IntoIterator<Item = (K, M)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<K, M> Named<K, M> {
    /// The module of that name.
    pub fn get<Q>(&self, key: &Q) -> Option<&M>
    where
        K: std::borrow::Borrow<Q>,
        Q: PartialEq + ?Sized,
    {
        self.0
            .iter()
            .find(|(k, _)| k.borrow() == key)
            .map(|(_, m)| m)
    }
    /// All names and modules, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &(K, M)> {
        self.0.iter()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: std::fmt::Display, M> Named<K, M> {
    fn parts(&self) -> impl Iterator<Item = (String, &M)> {
        self.0.iter().map(|(key, module)| (key.to_string(), module))
    }
    fn map_parts(self, mut f: impl FnMut(&str, M) -> M) -> Self {
        let map = |(key, module): (K, M)| {
            let name = key.to_string();
            (key, f(&name, module))
        };
        Self(self.0.into_iter().map(map).collect())
    }
}

/// The container type under which [`Named`] shows itself to visitors.
pub(crate) const NAMED: &str = "Named";
/// The container type under which [`Buffer`] shows itself to visitors.
pub(crate) const BUFFER: &str = "Buffer";

container_module!(impl[K: std::fmt::Display + Clone + Debug + Send, M: Module + ModuleDisplay] Named<K, M>, NAMED);

/// A tensor that is neither trained nor constant: BatchNorm's running statistics.
///
/// Not counted as a parameter and never given a gradient; saved when it changed.
#[derive(Clone, Debug)]
pub struct Buffer<const D: usize>(Param<Tensor<D>>);

impl<const D: usize> Buffer<D> {
    /// A buffer with this value.
    pub fn new(value: Tensor<D>) -> Self {
        Self(Param::initialized(Default::default(), value))
    }
    /// The value.
    pub fn val(&self) -> Tensor<D> {
        self.0.val()
    }
    fn parts(&self) -> impl Iterator<Item = (String, &Param<Tensor<D>>)> {
        std::iter::once((String::new(), &self.0))
    }
    fn map_parts(self, mut f: impl FnMut(&str, Param<Tensor<D>>) -> Param<Tensor<D>>) -> Self {
        Self(f("", self.0))
    }
}

container_module!(impl[const D: usize] Buffer<D>, BUFFER);
