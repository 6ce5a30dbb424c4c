//! A pickle machine that computes nothing: it builds plain data and refuses to call anything.
//!
//! PyTorch's checkpoints are pickles, and a pickle is a program that may name any Python function.
//! This machine knows the handful of names that rebuild tensors; everything else stays an inert
//! [`Value::Object`] and is listed. Protocols 0 to 5 as PyTorch writes them.
//!
//! Burn's `burn-store` reads such files too. This reader is our own because a file from a stranger
//! must be read exactly or be refused: strides are followed, a size that a file claims is held against
//! the bytes that are there, nesting costs no stack, an element type or an instruction that is not
//! known is an error instead of a default, TorchScript's archives are read, and what else a file names
//! can be shown before anybody trusts it.

mod op;
mod value;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use value::Kept;
pub use value::{Object, TensorRef, Value};

/// The result of a pickle.
pub struct Pickled {
    /// Its value.
    pub value: Value,
    /// Number of bytes that it took.
    pub taken: usize,
    /// The functions and classes that it names besides those of tensors; none of them was called.
    pub foreign: BTreeSet<String>,
    /// Declared after the value, so that it is dropped after it.
    _kept: Kept,
}

/// Runs one pickle.
///
/// # Errors
/// A line that says what is wrong with the pickle.
pub fn run(bytes: &[u8]) -> Result<Pickled, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        foreign: BTreeSet::new(),
        kept: Kept::default(),
    };
    let value = machine.run()?;
    Ok(Pickled {
        value,
        taken: machine.at,
        foreign: std::mem::take(&mut machine.foreign),
        _kept: std::mem::take(&mut machine.kept),
    })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Names besides those of tensors.
    foreign: BTreeSet<String>,
    /// Declared last, so that everything else is dropped before it.
    kept: Kept,
}

impl<'a> Machine<'a> {
    /// Pushes a value that may hold others.
    fn push(&mut self, value: Value) {
        self.kept.push(value.clone());
        self.stack.push(value);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self
            .at
            .checked_add(count)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("the pickle is cut off")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn short(&mut self) -> Result<usize, String> {
        Ok(usize::from(self.byte()?))
    }

    fn long(&mut self) -> Result<usize, String> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn longer(&mut self) -> Result<usize, String> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| "a size is too large".into())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest
            .iter()
            .position(|b| *b == b'\n')
            .ok_or("the pickle is cut off")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a line is not UTF-8".to_owned())
    }

    fn pop(&mut self) -> Result<Value, String> {
        // An instruction must not take values from below the last mark.
        let floor = self.marks.last().copied().unwrap_or(0);
        let above = self.stack.len() > floor;
        let top = self.stack.pop_if(|_| above);
        top.ok_or_else(|| "the stack is empty".to_owned())
    }

    fn till_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn run(&mut self) -> Result<Value, String> {
        loop {
            match self.byte()? {
                op::STOP => return self.pop(),
                code => self.step(code)?,
            }
        }
    }

    fn step(&mut self, code: u8) -> Result<(), String> {
        match code {
            op::PROTO => self.protocol(),
            // The length of a frame, which is not needed.
            op::FRAME => self.take(8).map(drop),
            op::MARK | op::POP | op::POP_MARK | op::DUP => self.on_stack(code),
            op::NONE | op::NEWTRUE | op::NEWFALSE | op::FLOAT | op::BINFLOAT => self.inert(code),
            op::INT | op::LONG | op::BININT | op::BININT1 | op::BININT2 | op::LONG1 => {
                self.number(code)
            }
            op::UNICODE
            | op::BINUNICODE
            | op::SHORT_BINUNICODE
            | op::BINUNICODE8
            | op::BINSTRING
            | op::SHORT_BINSTRING => self.text(code),
            op::BINBYTES | op::SHORT_BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => self.raw(code),
            op::EMPTY_TUPLE | op::TUPLE | op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => self.tuple(code),
            op::EMPTY_LIST | op::EMPTY_SET | op::EMPTY_DICT => self.empty(code),
            op::LIST | op::FROZENSET | op::DICT => self.filled(code),
            op::APPEND | op::APPENDS | op::ADDITEMS => self.append(code),
            op::SETITEM | op::SETITEMS => self.set(code),
            op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => self.remember(code),
            op::GET | op::BINGET | op::LONG_BINGET => self.recall(code),
            op::GLOBAL | op::STACK_GLOBAL => self.name(code),
            op::REDUCE | op::NEWOBJ | op::NEWOBJ_EX | op::OBJ | op::INST => self.call(code),
            op::BUILD => self.build(),
            op::BINPERSID => self.persistent(),
            other => Err(format!("pickle code {other:#04x} is not known")),
        }
    }

    fn protocol(&mut self) -> Result<(), String> {
        match self.byte()? {
            0..=5 => Ok(()),
            protocol => Err(format!("pickle protocol {protocol} is not known")),
        }
    }

    fn on_stack(&mut self, code: u8) -> Result<(), String> {
        match code {
            op::MARK => self.marks.push(self.stack.len()),
            op::POP => drop(self.pop()?),
            op::POP_MARK => drop(self.till_mark()?),
            _ => {
                let top = self.stack.last().ok_or("the stack is empty")?.clone();
                self.stack.push(top);
            }
        }
        Ok(())
    }

    /// Values that weights do not need.
    fn inert(&mut self, code: u8) -> Result<(), String> {
        let what = match code {
            op::BINFLOAT => self.take(8).map(|_| "a float")?,
            op::FLOAT => self.line().map(|_| "a float")?,
            op::NONE => "None",
            _ => "a truth value",
        };
        self.stack.push(Value::Inert(what));
        Ok(())
    }

    fn number(&mut self, code: u8) -> Result<(), String> {
        let value = match code {
            op::BININT => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            op::BININT1 => Value::Int(i64::from(self.byte()?)),
            op::BININT2 => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            op::LONG1 => {
                let count = self.short()?;
                integer(self.take(count)?)
            }
            _ => match self.line()?.trim_end_matches('L') {
                // Protocol 0 writes truth values like this.
                "00" | "01" => Value::Inert("a truth value"),
                text => Value::Int(text.parse().map_err(|_| "invalid number")?),
            },
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, code: u8) -> Result<(), String> {
        let bytes = match code {
            op::UNICODE => self.line()?.as_bytes(),
            _ => {
                let count = match code {
                    op::SHORT_BINUNICODE | op::SHORT_BINSTRING => self.short()?,
                    op::BINUNICODE8 => self.longer()?,
                    _ => self.long()?,
                };
                self.take(count)?
            }
        };
        let text = std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
        self.stack.push(Value::Text(text.to_owned()));
        Ok(())
    }

    fn raw(&mut self, code: u8) -> Result<(), String> {
        let count = match code {
            op::SHORT_BINBYTES => self.short()?,
            op::BINBYTES => self.long()?,
            _ => self.longer()?,
        };
        self.take(count)?;
        self.stack.push(Value::Inert("bytes"));
        Ok(())
    }

    fn tuple(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            op::EMPTY_TUPLE => Vec::new(),
            op::TUPLE => self.till_mark()?,
            _ => {
                let count = code - op::TUPLE1 + 1;
                let mut items = Vec::with_capacity(usize::from(count));
                for _ in 0..count {
                    items.push(self.pop()?);
                }
                items.reverse();
                items
            }
        };
        self.push(Value::Tuple(Rc::new(items)));
        Ok(())
    }

    fn empty(&mut self, code: u8) -> Result<(), String> {
        self.push(match code {
            op::EMPTY_DICT => Value::Dict(Rc::default()),
            _ => Value::List(Rc::default()),
        });
        Ok(())
    }

    fn filled(&mut self, code: u8) -> Result<(), String> {
        let items = self.till_mark()?;
        if code == op::DICT {
            self.push(Value::Dict(Rc::default()));
            return self.set_all(items);
        }
        self.push(Value::List(Rc::new(RefCell::new(items))));
        Ok(())
    }

    fn append(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            op::APPEND => vec![self.pop()?],
            _ => self.till_mark()?,
        };
        match self.stack.last() {
            Some(Value::List(list)) => list.borrow_mut().extend(items),
            // An object of an unknown class may be filled; it stays inert.
            Some(Value::Object(_)) => {}
            _ => return Err("items without a list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            op::SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.till_mark()?,
        };
        self.set_all(items)
    }

    /// Inserts alternating keys and values into the dictionary on the top of the stack.
    fn set_all(&mut self, items: Vec<Value>) -> Result<(), String> {
        if !items.len().is_multiple_of(2) {
            return Err("a key without a value".to_owned());
        }
        match self.stack.last() {
            Some(Value::Dict(dict)) => {
                let mut items = items.into_iter();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    dict.borrow_mut().push((key, value));
                }
            }
            Some(Value::Object(_)) => {}
            _ => return Err("a key without a dictionary".to_owned()),
        }
        Ok(())
    }

    fn remember(&mut self, code: u8) -> Result<(), String> {
        let key = match code {
            op::MEMOIZE => self.memo.len(),
            op::BINPUT => self.short()?,
            op::LONG_BINPUT => self.long()?,
            _ => self.line()?.parse().map_err(|_| "invalid memo key")?,
        };
        // Containers are shared: what is appended later is seen under the memo's key too.
        let value = self.stack.last().ok_or("the stack is empty")?.clone();
        let key = u32::try_from(key).map_err(|_| "a memo key is too large")?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Result<(), String> {
        let key = match code {
            op::BINGET => self.short()?,
            op::LONG_BINGET => self.long()?,
            _ => self.line()?.parse().map_err(|_| "invalid memo key")?,
        };
        let found = u32::try_from(key).ok().and_then(|key| self.memo.get(&key));
        self.stack.push(found.ok_or("a memo is missing")?.clone());
        Ok(())
    }

    fn name(&mut self, code: u8) -> Result<(), String> {
        let name = match code {
            op::GLOBAL => format!("{}.{}", self.line()?, self.line()?),
            _ => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => format!("{module}.{name}"),
                _ => return Err("a name is not a string".to_owned()),
            },
        };
        self.named(&name);
        self.stack.push(Value::Global(name.into()));
        Ok(())
    }

    /// Records a name unless it is one of tensors.
    fn named(&mut self, name: &str) {
        if !is_of_tensors(name) {
            self.foreign.insert(name.to_owned());
        }
    }

    /// An instruction that would call something. For the few functions that rebuild tensors the result
    /// is known; for every other one an inert object stands for it.
    fn call(&mut self, code: u8) -> Result<(), String> {
        let made = match code {
            op::INST => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.till_mark()?;
                self.named(&name);
                Value::object(name)
            }
            op::OBJ => {
                let items = self.till_mark()?;
                let function = items.first().ok_or("an object without a class")?;
                result(function, &Value::Inert("None"))?
            }
            _ => {
                if code == op::NEWOBJ_EX {
                    // The arguments by keyword.
                    self.pop()?;
                }
                let (arguments, function) = (self.pop()?, self.pop()?);
                result(&function, &arguments)?
            }
        };
        self.push(made);
        Ok(())
    }

    /// State for an object: its fields, or `_metadata` of a state dict.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        if let Some(Value::Object(object)) = self.stack.last() {
            object.state.replace(Some(state));
        }
        Ok(())
    }

    fn persistent(&mut self) -> Result<(), String> {
        match self.pop()? {
            Value::Tuple(id) => self.push(Value::Persistent(id)),
            _ => return Err("a persistent id is not a tuple".to_owned()),
        }
        Ok(())
    }
}

/// A little-endian two's complement integer of at most eight bytes; a longer one is inert.
fn integer(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::object("int");
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = if negative { [0xff; 8] } else { [0; 8] };
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}

/// Whether a name is of a function that rebuilds or holds tensors, of a storage, or of plain data: the
/// names that torch's own reader allows where it reads weights only.
fn is_of_tensors(name: &str) -> bool {
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
fn result(function: &Value, arguments: &Value) -> Result<Value, String> {
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

#[cfg(test)]
mod tests;
