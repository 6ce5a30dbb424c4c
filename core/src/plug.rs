//! Boxed plugins as Burn modules.
//!
//! [`Module`] has generic methods, so `Box<dyn Trait>` cannot be one. [`ErasedModule`] mirrors it
//! with object-safe methods and is implemented for every module; [`Plug`] wraps a boxed trait
//! object and is a [`Module`] again. Plugin authors derive `Module` and see none of this; Burn's
//! optimisers and records see one module whose parameter paths do not show the box.

use std::any::Any;
use std::fmt::Debug;
use std::mem::ManuallyDrop;
use std::ptr;

use burn::module::{
    Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param,
};
use burn::tensor::{Bool, Device, Float, Int, Tensor};

pub use crate::named::{Boundary, Buffer, ByBoundary, BySite, Named};

/// The object-safe mirror of [`Module`].
///
/// The methods `self -> Self` of Burn work in place here: the module is moved out, and the result
/// is moved in. If one panics in between, the place is left without a value. That is why these are
/// `unsafe`: after a panic the caller must neither use the place nor drop it.
pub trait ErasedModule: Debug + Send + Sync + Any {
    /// [`Module::visit`].
    fn visit_erased(&self, visitor: &mut dyn ErasedVisitor);
    /// [`Module::collect_devices`].
    fn collect_devices_erased(&self, devices: Devices) -> Devices;
    /// [`Module::valid`].
    fn valid_erased(&mut self);
    /// [`Module::map`].
    ///
    /// # Safety
    /// See the trait.
    unsafe fn map_erased(&mut self, mapper: &mut dyn ErasedMapper);
    /// [`Module::to_device`].
    ///
    /// # Safety
    /// See the trait.
    unsafe fn to_device_erased(&mut self, device: &Device);
    /// [`Module::fork`].
    ///
    /// # Safety
    /// See the trait.
    unsafe fn fork_erased(&mut self, device: &Device);
    /// [`Module::train`].
    ///
    /// # Safety
    /// See the trait.
    unsafe fn train_erased(&mut self);
    /// [`Module::materialize`].
    ///
    /// # Safety
    /// See the trait.
    unsafe fn materialize_erased(&mut self);
}

impl<M: Module + ModuleDisplay + Sync + 'static> ErasedModule for M {
    fn visit_erased(&self, visitor: &mut dyn ErasedVisitor) {
        self.visit(&mut VisitDown(visitor));
    }
    fn collect_devices_erased(&self, devices: Devices) -> Devices {
        self.collect_devices(devices)
    }
    fn valid_erased(&mut self) {
        // `valid` borrows the module, so nothing is moved out and this is safe even if it panics.
        *self = self.valid();
    }
    unsafe fn map_erased(&mut self, mapper: &mut dyn ErasedMapper) {
        // SAFETY: `replace` has the same condition as this method.
        unsafe { replace(self, |module| module.map(&mut MapDown(mapper))) }
    }
    unsafe fn to_device_erased(&mut self, device: &Device) {
        // SAFETY: `replace` has the same condition as this method.
        unsafe { replace(self, |module| module.to_device(device)) }
    }
    unsafe fn fork_erased(&mut self, device: &Device) {
        // SAFETY: `replace` has the same condition as this method.
        unsafe { replace(self, |module| module.fork(device)) }
    }
    unsafe fn train_erased(&mut self) {
        // SAFETY: `replace` has the same condition as this method.
        unsafe { replace(self, Module::train) }
    }
    unsafe fn materialize_erased(&mut self) {
        // SAFETY: `replace` has the same condition as this method.
        unsafe { replace(self, Module::materialize) }
    }
}

/// Moves a module out of its place and puts the result of `change` there. Leaving a copy in the
/// place meanwhile would be safe, but the copy would share the tensors, so that an optimiser could
/// no longer update them in place.
///
/// # Safety
/// If `change` panics, the place is left without a value: it must neither be used nor dropped.
unsafe fn replace<M>(place: &mut M, change: impl FnOnce(M) -> M) {
    // SAFETY: `place` is valid, and its value is moved out once. `write` does not drop the old
    // value, which is right, because that value is gone. Nothing reads `place` in between.
    unsafe { ptr::write(place, change(ptr::read(place))) }
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

impl<T: ErasedModule + ?Sized> Plug<T> {
    /// Lets `change` replace the module in its box. If `change` panics, the box frees its memory
    /// without dropping its content, which unwinding has already dropped.
    fn changed(self, change: impl FnOnce(&mut T)) -> Self {
        let raw = Box::into_raw(self.0) as *mut ManuallyDrop<T>;
        // SAFETY: `ManuallyDrop<T>` has the layout of `T`, and the pointer comes from a box that was
        // given up.
        let mut place = unsafe { Box::from_raw(raw) };
        change(&mut **place);
        // SAFETY: the same cast in reverse; `change` returned, so there is a value again.
        Self(unsafe { Box::from_raw(Box::into_raw(place) as *mut T) })
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
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        // SAFETY: `changed` neither uses nor drops the module after a panic.
        self.changed(|module| unsafe { module.map_erased(&mut MapUp(mapper)) })
    }
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices_erased(devices)
    }
    fn to_device(self, device: &Device) -> Self {
        // SAFETY: `changed` neither uses nor drops the module after a panic.
        self.changed(|module| unsafe { module.to_device_erased(device) })
    }
    fn fork(self, device: &Device) -> Self {
        // SAFETY: `changed` neither uses nor drops the module after a panic.
        self.changed(|module| unsafe { module.fork_erased(device) })
    }
    fn valid(&self) -> Self {
        // The clone shares all tensors, so this costs no memory.
        let mut copy = self.clone();
        copy.0.valid_erased();
        copy
    }
    fn train(self) -> Self {
        // SAFETY: `changed` neither uses nor drops the module after a panic.
        self.changed(|module| unsafe { module.train_erased() })
    }
    fn materialize(self) -> Self {
        // SAFETY: `changed` neither uses nor drops the module after a panic.
        self.changed(|module| unsafe { module.materialize_erased() })
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

/// Expands `$arm!(rank, ..)` for the constant that equals `$rank`. A rank cannot be a value of a
/// generic, and the tensors of Burn have 1 to 8 dimensions here.
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
        match $param.downcast_ref::<Param<Tensor<$d, $kind>>>() {
            Some(param) => $self.0.$visit(param),
            None => unreachable!("a parameter that is not of rank {}", $d),
        }
    };
}

macro_rules! map_arm {
    ($d:literal, $self:ident, $slot:ident, $map:ident, $kind:ty) => {
        match $slot.downcast_mut::<Option<Param<Tensor<$d, $kind>>>>() {
            Some(slot) => *slot = slot.take().map(|param| $self.0.$map(param)),
            None => unreachable!("a parameter that is not of rank {}", $d),
        }
    };
}

/// Makes an erased visitor of a typed one.
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

/// Makes a typed visitor of an erased one.
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

/// Makes an erased mapper of a typed one.
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

/// Makes a typed mapper of an erased one.
struct MapDown<'a>(&'a mut dyn ErasedMapper);

macro_rules! map_down {
    ($self:ident, $d:ident, $param:ident, $map:ident) => {{
        let mut slot = Some($param);
        $self.0.$map($d, &mut slot);
        // An erased mapper puts back what it takes, unless it panics: see `map_arm`.
        slot.unwrap_or_else(|| unreachable!("a mapper did not return a parameter"))
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use burn::module::ParamId;

    use super::*;
    use crate::adapter::{Adapter, BoxedAdapter};
    use crate::params;

    #[derive(Module, Debug)]
    struct Two {
        first: Param<Tensor<1>>,
        second: Param<Tensor<1>>,
    }

    impl Adapter for Two {}

    fn two() -> BoxedAdapter {
        let param = || Param::from_tensor(Tensor::ones([3], &Device::flex()));
        let (first, second) = (param(), param());
        Plug::new(Box::new(Two { first, second }))
    }

    /// Doubles values and fails at the parameter of that identity.
    struct Doubles(Option<ParamId>);

    impl ModuleMapper for Doubles {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            assert!(self.0 != Some(param.id), "a mapper that fails");
            param.map(|value| value * 2.0)
        }
    }

    #[test]
    fn a_mapper_that_panics_unwinds_and_the_process_goes_on() {
        let module = two();
        let second = params::infos(&module)[1].id;
        let (kept, mapped) = (module.clone(), module);
        let mapped = catch_unwind(AssertUnwindSafe(|| mapped.map(&mut Doubles(Some(second)))));
        let panic = mapped.err().unwrap();
        assert_eq!(panic.downcast_ref(), Some(&"a mapper that fails"));
        // Copies that shared its tensors are unchanged and map as before.
        let values = |module: &BoxedAdapter| -> Vec<f32> {
            let tensors = params::read(module, |_| true).into_values();
            tensors.flat_map(params::floats).collect()
        };
        assert_eq!(values(&kept), [1.0; 6]);
        assert_eq!(values(&kept.map(&mut Doubles(None))), [2.0; 6]);
    }

    #[test]
    #[should_panic(expected = "a parameter that is not of rank 2")]
    fn a_parameter_of_another_rank_is_not_passed_over() {
        let param = Param::from_tensor(Tensor::<1>::ones([3], &Device::flex()));
        let mut slot: Option<Param<Tensor<1>>> = Some(param);
        MapUp(&mut Doubles(None)).float(2, &mut slot);
    }
}
