//! The functions and classes that a pickle may name: which of them are of tensors, and what a call of one
//! of them stands for. Nothing is called.

use std::cell::RefCell;
use std::rc::Rc;

use super::value::{TensorRef, Value};

/// Whether a name is of a function that rebuilds or holds tensors, of a storage, or of plain data: the
/// names that torch's own reader allows where it reads weights only.
pub(super) fn is_of_tensors(name: &str) -> bool {
    let Some(torch) = name.strip_prefix("torch.") else {
        return name.starts_with(SCRIPTED) || PLAIN.contains(&name);
    };
    let storage = torch.ends_with("Storage");
    storage || TORCH.contains(&torch) || is_type(torch)
}

/// Whether a name of torch is an element type, such as `bfloat16` or `float8_e4m3fn`.
fn is_type(name: &str) -> bool {
    let kinds = [
        "bfloat", "bits", "bool", "complex", "float", "int", "qint", "quint", "uint",
    ];
    let mut sizes = kinds.iter().filter_map(|kind| name.strip_prefix(kind));
    sizes.any(|size| size.is_empty() || size.starts_with(|c: char| c.is_ascii_digit()))
}

/// The functions and classes of plain data.
const PLAIN: [&str; 9] = [
    "builtins.bytearray",
    "builtins.complex",
    "builtins.dict",
    "builtins.set",
    "_codecs.encode",
    "collections.Counter",
    "collections.OrderedDict",
    "collections.defaultdict",
    "__builtin__.set",
];

/// The functions and classes of torch that hold, rebuild or describe a tensor.
const TORCH: [&str; 29] = [
    "Size",
    "Tensor",
    "device",
    "nn.parameter.Buffer",
    "nn.parameter.Parameter",
    "per_channel_affine",
    "per_channel_affine_float_qparams",
    "per_channel_symmetric",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "serialization._get_layout",
    "_tensor._rebuild_from_type_v2",
    "_utils._rebuild_device_tensor_from_cpu_tensor",
    "_utils._rebuild_device_tensor_from_numpy",
    "_utils._rebuild_meta_tensor_no_storage",
    "_utils._rebuild_nested_tensor",
    "_utils._rebuild_parameter",
    "_utils._rebuild_parameter_with_state",
    "_utils._rebuild_qtensor",
    "_utils._rebuild_sparse_csr_tensor",
    "_utils._rebuild_sparse_tensor",
    "_utils._rebuild_tensor",
    "_utils._rebuild_tensor_v2",
    "_utils._rebuild_tensor_v3",
    "_utils._rebuild_wrapper_subclass",
    "_utils._rebuild_xla_tensor",
    "sparse_coo",
    "sparse_csr",
    "strided",
];

/// Prefix of the names of TorchScript's classes, which belong to the archive and not to Python.
pub const SCRIPTED: &str = "__torch__.";

/// The result of a call: data for the few functions that are known, an inert object for any other.
pub(super) fn result(function: &Value, arguments: &Value) -> Result<Value, String> {
    let name: Rc<str> = match function {
        Value::Global(name) => name.clone(),
        Value::Object(object) => object.name.clone(),
        _ => return Err("a call without a name".to_owned()),
    };
    let arguments: &[Value] = match arguments {
        Value::Tuple(items) => items,
        _ => &[],
    };
    match (&*name, arguments) {
        ("collections.OrderedDict" | "collections.defaultdict" | "builtins.dict", _) => {
            Ok(Value::Dict(Rc::new(RefCell::new(pairs(arguments)))))
        }
        ("torch.Size", [sizes]) => Ok(sizes.clone()),
        (
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
            [
                Value::Persistent(storage),
                offset,
                sizes,
                strides,
                rest @ ..,
            ],
        ) => view(storage, (offset, sizes, strides), None, rest.get(2)),
        (
            "torch._utils._rebuild_tensor_v3",
            [
                Value::Persistent(storage),
                offset,
                sizes,
                strides,
                _,
                _,
                Value::Global(kind),
                rest @ ..,
            ],
        ) => view(storage, (offset, sizes, strides), Some(kind), rest.first()),
        (
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
            [data, ..],
        ) => Ok(data.clone()),
        // A tensor of a class of its own, or with attributes: its values are rebuilt by another function.
        // That function is never this one again, so nesting costs no stack.
        (
            "torch._tensor._rebuild_from_type_v2",
            [inner @ Value::Global(rebuild), _, arguments, ..],
        ) if **rebuild != *name => result(inner, arguments),
        (own, _)
            if own.starts_with("torch._utils._rebuild_") || own.contains("._rebuild_from_type") =>
        {
            Ok(Value::Unread(name))
        }
        _ => Ok(Value::object(name)),
    }
}

/// The pairs that a dictionary is made from, as protocols 0 and 1 write an `OrderedDict`.
fn pairs(arguments: &[Value]) -> Vec<(Value, Value)> {
    let pair = |value: &Value| match value {
        Value::Tuple(items) => <[Value; 2]>::try_from(items.to_vec()).ok(),
        Value::List(items) => <[Value; 2]>::try_from(items.borrow().clone()).ok(),
        _ => None,
    };
    let items = match arguments {
        [.., Value::List(items)] => items.borrow().clone(),
        [.., Value::Tuple(items)] => items.to_vec(),
        _ => Vec::new(),
    };
    let items = items.iter().filter_map(pair);
    items.map(|[key, value]| (key, value)).collect()
}

/// A view of a storage, whose elements are of the type `kind` if the storage does not say it.
fn view(
    storage: &Rc<Vec<Value>>,
    (offset, sizes, strides): (&Value, &Value, &Value),
    kind: Option<&Rc<str>>,
    bits: Option<&Value>,
) -> Result<Value, String> {
    let sizes = sizes.counts().ok_or("a tensor's sizes are not numbers")?;
    let strides = strides
        .counts()
        .ok_or("a tensor's strides are not numbers")?;
    if sizes.len() != strides.len() {
        return Err("a tensor has more or fewer strides than sizes".to_owned());
    }
    // The values of a tensor with one of these bits are not those of its storage.
    if let Some(Value::Dict(bits)) = bits {
        let bits = bits.borrow();
        let mut names = bits.iter().filter_map(|(key, _)| key.text());
        if let Some(bit) = names.find(|name| ["conj", "neg"].contains(name)) {
            return Ok(Value::Unread(format!("a view with the {bit} bit").into()));
        }
    }
    Ok(Value::Tensor(Rc::new(TensorRef {
        storage: storage.clone(),
        kind: kind.cloned(),
        offset: offset.count().ok_or("a tensor's offset is not a number")?,
        sizes,
        strides,
    })))
}
