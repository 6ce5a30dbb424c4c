//! Containers of named modules, and buffers.

use std::fmt::Debug;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{Device, Tensor};

/// Implements [`Module`] for a container by passing every call to its parts. The container has a
/// method `parts`, which yields pairs of a name and a module, and `map_parts`; `$container` is the
/// container type that visitors are told.
macro_rules! container_module {
    (impl[$($generics:tt)*] $ty:ty, $container:expr) => {
        impl<$($generics)*> Module for $ty {
            fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
                for (name, module) in self.parts() {
                    // Visitors are told the type of the container, so that they can leave its field
                    // out of names.
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

/// Modules by the name of a site ([`BySite`]), a boundary ([`ByBoundary`]) or a method.
///
/// The field that holds the container does not appear in parameter names: `factors: BySite<..>` yields
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
            // A linear search: a container has some dozens of entries, and a pass asks only for
            // those that act.
            .find(|(k, _)| k.borrow() == key)
            .map(|(_, m)| m)
    }
    /// All names and modules, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &(K, M)> {
        self.0.iter()
    }
    /// The name and module at a place in that order.
    pub(crate) fn nth(&self, place: usize) -> Option<&(K, M)> {
        self.0.get(place)
    }
    /// Whether it holds no module.
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

/// The container type as which [`Named`] presents itself to visitors.
pub(crate) const NAMED: &str = "Named";
/// The container type as which [`Buffer`] presents itself to visitors.
pub(crate) const BUFFER: &str = "Buffer";

container_module!(impl[K: std::fmt::Display + Clone + Debug + Send, M: Module + ModuleDisplay] Named<K, M>, NAMED);

/// A tensor that is neither trained nor constant, such as BatchNorm's running statistics.
///
/// It is not counted as a parameter and never gets a gradient; it is saved if it changed.
#[derive(Clone, Debug)]
pub struct Buffer<const D: usize>(Param<Tensor<D>>);

impl<const D: usize> Buffer<D> {
    /// A buffer with this value, of any shape.
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
