//! Parameters by canonical name: one walk over a module that records, files, counts and optimisers
//! share.
//!
//! A name is the path of fields, with three exceptions: a [`crate::named::Named`] container replaces
//! the name of its field by its own keys; a [`crate::named::Buffer`] adds nothing, and neither does a
//! variant of an enum. So a LoRA factor is called `lora.blocks.0.attn.qkv.lora_A.weight`, in memory
//! and on disk.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};

use crate::named::{BUFFER, NAMED};
use crate::plug::{ErasedModule, VisitUp};

/// Tensors by canonical name.
pub type Tensors = BTreeMap<String, TensorData>;

/// The properties of a parameter or buffer that are known without reading its values.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// Canonical name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bytes of its values.
    pub bytes: usize,
    /// The identity in optimisers.
    pub id: ParamId,
    /// Whether it is a buffer: neither trained nor counted.
    pub buffer: bool,
}

impl ParamInfo {
    /// Number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Whether a parameter of this name is a bias: `fc1.bias`, or `attn.q_bias`, which lies beside its layer.
pub fn is_bias(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last == "bias" || last.ends_with("_bias")
}

/// The prefix with which Burn's derive announces the variants of an enum.
const ENUM: &str = "Enum:";

/// The path of the walk, with the three exceptions above.
#[derive(Default)]
struct Path {
    parts: Vec<String>,
    /// The field names that the keys of [`NAMED`] replaced, to be restored on leaving.
    replaced: Vec<Option<String>>,
    buffers: usize,
}

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        match container {
            BUFFER => self.buffers += 1,
            NAMED => {
                // The container is entered as a field first, so its key replaces the name of that
                // field.
                self.replaced.push(self.parts.pop());
                self.parts.push(name.to_owned());
            }
            _ if container.starts_with(ENUM) => {}
            _ => self.parts.push(name.to_owned()),
        }
    }

    fn exit(&mut self, container: &str) {
        match container {
            BUFFER => self.buffers -= 1,
            NAMED => {
                self.parts.pop();
                self.parts.extend(self.replaced.pop().flatten());
            }
            _ if container.starts_with(ENUM) => {}
            _ => {
                self.parts.pop();
            }
        }
    }

    fn name(&self) -> String {
        self.parts.join(".")
    }

    fn is_buffer(&self) -> bool {
        self.buffers > 0
    }
}

/// All parameters and buffers, in the module's order.
pub fn infos(module: &impl Module) -> Vec<ParamInfo> {
    let mut walk = Walk::default();
    module.visit(&mut walk);
    walk.1
}

/// [`infos`] of a boxed plugin.
pub fn infos_erased<T: ErasedModule + ?Sized>(module: &T) -> Vec<ParamInfo> {
    let mut walk = Walk::default();
    module.visit_erased(&mut VisitUp(&mut walk));
    walk.1
}

#[derive(Default)]
struct Walk(Path, Vec<ParamInfo>);

impl ModuleVisitor for Walk {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape: Vec<usize> = param.lazy_shape().iter().copied().collect();
        // Reading the type of a parameter without a value would allocate the value.
        let width = if param.is_initialized() {
            param.base().dtype().size()
        } else {
            DType::F32.size()
        };
        self.1.push(ParamInfo {
            name: self.0.name(),
            bytes: shape.iter().product::<usize>() * width,
            shape,
            id: param.id,
            buffer: self.0.is_buffer(),
        });
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.0.exit(container);
    }
}

/// The values of the parameters and buffers that `wanted` selects.
pub fn read(module: &impl Module, wanted: impl Fn(&ParamInfo) -> bool) -> Tensors {
    struct Read(BTreeMap<ParamId, String>, Tensors);
    impl ModuleVisitor for Read {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            // The name is removed, so that a shared parameter is read once.
            if let Some(name) = self.0.remove(&param.id) {
                self.1.insert(name, param.val().into_data());
            }
        }
    }
    let wanted = infos(module)
        .into_iter()
        .filter(wanted)
        .map(|info| (info.id, info.name));
    let mut read = Read(wanted.collect(), Tensors::new());
    module.visit(&mut read);
    read.1
}

/// The value of a boxed plugin's parameter, if there is one of that name.
pub fn value<T: ErasedModule + ?Sized>(module: &T, name: &str) -> Option<TensorData> {
    struct Value(ParamId, Option<TensorData>);
    impl ModuleVisitor for Value {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.id == self.0 {
                self.1 = Some(param.val().into_data());
            }
        }
    }
    let info = infos_erased(module).into_iter().find(|i| i.name == name)?;
    let mut value = Value(info.id, None);
    module.visit_erased(&mut VisitUp(&mut value));
    value.1
}

/// The gradients of a step by canonical name.
pub fn gradients(module: &impl Module, gradients: &GradientsParams) -> Tensors {
    struct Read<'a>(BTreeMap<ParamId, String>, &'a GradientsParams, Tensors);
    impl ModuleVisitor for Read<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let (Some(name), Some(gradient)) = (self.0.get(&param.id), self.1.get::<D>(param.id))
            {
                self.2.insert(name.clone(), gradient.into_data());
            }
        }
    }
    let names = infos(module).into_iter().map(|info| (info.id, info.name));
    let mut read = Read(names.collect(), gradients, Tensors::new());
    module.visit(&mut read);
    read.2
}

/// The reason why tensors cannot be written into a module.
#[derive(Debug, Default, PartialEq)]
pub struct Mismatch {
    /// Names that the module does not have.
    pub unknown: Vec<String>,
    /// `name: expected [..], got [..]`.
    pub shapes: Vec<String>,
}

/// Replaces values by name. Nothing is written unless every name exists with the same shape.
///
/// # Errors
/// [`Mismatch`], which lists all names and shapes that do not fit.
pub fn write<M: Module>(module: M, mut tensors: Tensors) -> Result<M, Mismatch> {
    let known: BTreeMap<String, ParamInfo> = infos(&module)
        .into_iter()
        .map(|info| (info.name.clone(), info))
        .collect();
    let mut mismatch = Mismatch::default();
    for (name, data) in &tensors {
        match known.get(name) {
            None => mismatch.unknown.push(name.clone()),
            Some(info) if info.shape[..] != data.shape()[..] => {
                mismatch.shapes.push(format!(
                    "{name}: expected {:?}, got {:?}",
                    info.shape,
                    &data.shape()[..]
                ));
            }
            Some(_) => {}
        }
    }
    if mismatch != Mismatch::default() {
        return Err(mismatch);
    }
    Ok(map_named(module, |name| {
        tensors.remove(name).map(Change::Value)
    }))
}

/// Replaces values in one walk by those that `value` returns, which must have the same shape. Each is
/// written before `value` is called again, so only one of them is in memory at a time.
pub fn fill<M: Module>(module: M, mut value: impl FnMut(&str) -> Option<TensorData>) -> M {
    map_named(module, |name| value(name).map(Change::Value))
}

/// Makes exactly the parameters called `names` trainable; buffers never are.
pub fn train_only<M: Module>(module: M, names: &BTreeSet<String>) -> M {
    map_named(module, |name| Some(Change::Trains(names.contains(name))))
}

/// Derives the identity of every parameter from its name, so that another process finds saved
/// optimiser state again.
pub fn identify<M: Module>(module: M) -> M {
    map_named(module, |_| Some(Change::Identity))
}

/// Casts everything but the parameters called `except` to `dtype`.
pub fn cast_except<M: Module>(module: M, except: &BTreeSet<String>, dtype: DType) -> M {
    map_named(module, |name| {
        (!except.contains(name)).then_some(Change::Cast(dtype))
    })
}

/// Replaces buffers by name.
///
/// # Shapes
/// Each value `[c]`, as many as the buffer has.
pub fn update_buffers<M: Module>(module: M, updates: Vec<(String, Tensor<1>)>) -> M {
    if updates.is_empty() {
        return module;
    }
    let mut updates: BTreeMap<_, _> = updates.into_iter().collect();
    map_named(module, |name| updates.remove(name).map(Change::Buffer))
}

enum Change {
    Value(TensorData),
    Trains(bool),
    Identity,
    Cast(DType),
    Buffer(Tensor<1>),
}

fn map_named<M: Module>(module: M, change: impl FnMut(&str) -> Option<Change>) -> M {
    struct Map<F>(Path, F);
    impl<F: FnMut(&str) -> Option<Change>> ModuleMapper for Map<F> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.0.name();
            match (self.1)(&name) {
                None => param,
                Some(change) => apply(param, change, &name, self.0.is_buffer()),
            }
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.0.exit(container);
        }
    }
    module.map(&mut Map(Path::default(), change))
}

fn apply<const D: usize>(
    param: Param<Tensor<D>>,
    change: Change,
    name: &str,
    buffer: bool,
) -> Param<Tensor<D>> {
    match change {
        // A parameter without a value is made from this one directly: zeros would take the memory
        // of the whole model for a moment.
        Change::Value(data) if !param.is_initialized() => {
            let mut new = Param::from_data(data, &param.lazy_device());
            new.id = param.id;
            new
        }
        Change::Value(data) => {
            // The element type, the device and the gradient stay those of the old value: a file
            // does not decide about them.
            let replace = |old: Tensor<D>| {
                let dtype = old.dtype();
                let new = Tensor::from_data(data, (&old.device(), dtype));
                if old.is_require_grad() {
                    new.require_grad()
                } else {
                    new
                }
            };
            param.map(replace)
        }
        Change::Trains(trains) => param.set_require_grad(trains && !buffer),
        Change::Identity => {
            let mut param = param;
            // 64 bits of a hash are enough: there are few names, so a collision is out of the
            // question.
            let hash = blake3::hash(name.as_bytes());
            let (head, _) = hash.as_bytes().split_at(8);
            param.id = ParamId::from(head.iter().fold(0, |id, byte| id << 8 | u64::from(*byte)));
            param
        }
        Change::Cast(dtype) => param.map(|value| value.cast(dtype)),
        Change::Buffer(value) => param.map(|old| {
            let value = value.reshape(old.dims());
            // The update comes from the inner tensors of the step and must return to the autodiff
            // device.
            if old.is_autodiff() {
                Tensor::from_inner(value)
            } else {
                value
            }
        }),
    }
}

/// The values as `f32`, whatever their element type.
pub fn floats(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}
