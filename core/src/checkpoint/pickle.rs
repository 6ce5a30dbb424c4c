//! A pickle machine that computes nothing: it builds plain data and refuses to call anything.
//!
//! PyTorch's checkpoints are pickles, and a pickle is a program that may name any Python function.
//! This machine knows the handful of names that rebuild tensors; everything else stays an inert
//! [`Value::Object`]. Protocols 0 to 5 as PyTorch writes them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// What a pickle builds.
#[derive(Clone, Debug)]
pub enum Value {
    /// `None`, a truth value, a float, bytes: nothing that weights need.
    Inert,
    /// An integer.
    Int(i64),
    /// Text.
    Text(String),
    /// A list or a set.
    List(Rc<RefCell<Vec<Value>>>),
    /// A tuple.
    Tuple(Rc<Vec<Value>>),
    /// A dictionary in its order.
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    /// A name `module.attribute`.
    Global(Rc<str>),
    /// What a persistent id stands for: its tuple.
    Persistent(Rc<Vec<Value>>),
    /// A tensor: storage, offset, sizes and strides in elements.
    Tensor(Rc<TensorRef>),
    /// Something that would have been made by calling this name; it was not.
    Object(Rc<Object>),
}

/// What stands for an object.
#[derive(Debug)]
pub struct Object {
    /// The name that would have been called.
    pub name: Rc<str>,
    /// What it would have been filled with: the fields of a TorchScript module.
    pub state: RefCell<Option<Value>>,
}

/// A tensor as a view of a storage.
#[derive(Clone, Debug)]
pub struct TensorRef {
    /// `("storage", type, key, location, count)`.
    pub storage: Rc<Vec<Value>>,
    /// First element.
    pub offset: usize,
    /// Shape.
    pub sizes: Vec<usize>,
    /// Strides.
    pub strides: Vec<usize>,
}

impl Value {
    /// The text, if it is that.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one that is not negative.
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn object(name: impl Into<Rc<str>>) -> Self {
        let (name, state) = (name.into(), RefCell::new(None));
        Self::Object(Rc::new(Object { name, state }))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple(items) => items.iter().map(Self::count).collect(),
            Self::List(items) => items.borrow().iter().map(Self::count).collect(),
            _ => None,
        }
    }
}

/// What a pickle built.
pub struct Pickled {
    /// Its value.
    pub value: Value,
    /// Bytes that it took.
    pub taken: usize,
    /// Behind the value, so that it is dropped after it.
    _kept: Kept,
}

/// Everything that holds other values, in the order in which it was made. A pickle may nest a million
/// deep, and dropping what contains the other would go as deep: here all are let go one by one.
#[derive(Default)]
struct Kept(Vec<Value>);

impl Drop for Kept {
    fn drop(&mut self) {
        // What can be filled later may hold what was made later.
        for value in &self.0 {
            match value {
                Value::List(items) => drop(items.take()),
                Value::Dict(items) => drop(items.take()),
                Value::Object(object) => drop(object.state.take()),
                _ => {}
            }
        }
        // A tuple holds what was made before it, which is still here when it goes.
        while self.0.pop().is_some() {}
    }
}

/// Runs one pickle.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn run(bytes: &[u8]) -> Result<Pickled, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        kept: Kept::default(),
    };
    let value = machine.run()?;
    Ok(Pickled {
        value,
        taken: machine.at,
        _kept: std::mem::take(&mut machine.kept),
    })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Last, so that all else is dropped before it.
    kept: Kept,
}

impl<'a> Machine<'a> {
    /// Pushes a value that may hold others.
    fn push(&mut self, value: Value) {
        self.kept.0.push(value.clone());
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
        std::str::from_utf8(&rest[..end]).map_err(|_| "a line is no text".to_owned())
    }

    fn text(&mut self, count: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(count)?).map_err(|_| "a text is no UTF-8")?;
        self.stack.push(Value::Text(text.to_owned()));
        Ok(())
    }

    fn raw(&mut self, count: usize) -> Result<(), String> {
        self.take(count)?;
        self.stack.push(Value::Inert);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self
                .stack
                .pop()
                .ok_or_else(|| "the stack is empty".to_owned()),
            false => Err("the stack is empty".to_owned()),
        }
    }

    fn till_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, key: usize) -> Result<(), String> {
        let value = self.stack.last().ok_or("the stack is empty")?.clone();
        let key = u32::try_from(key).map_err(|_| "a memo is too large")?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: usize) -> Result<(), String> {
        let found = u32::try_from(key).ok().and_then(|key| self.memo.get(&key));
        self.stack.push(found.ok_or("a memo is missing")?.clone());
        Ok(())
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(Rc::new(items)));
        Ok(())
    }

    fn extend(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.stack.last() {
            Some(Value::List(list)) => list.borrow_mut().extend(items),
            // An object of a class that is not known may be filled; it stays what it is.
            Some(Value::Object(_)) => {}
            _ => return Err("items without a list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Value>) -> Result<(), String> {
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

    fn run(&mut self) -> Result<Value, String> {
        loop {
            let code = self.byte()?;
            match code {
                0x80 => {
                    let protocol = self.byte()?;
                    if protocol > 5 {
                        return Err(format!("pickle protocol {protocol} is not known"));
                    }
                }
                0x95 => {
                    self.take(8)?;
                }
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.till_mark()?;
                }
                b'2' => {
                    let top = self.stack.last().ok_or("the stack is empty")?.clone();
                    self.stack.push(top);
                }
                b'N' => self.stack.push(Value::Inert),
                0x88 | 0x89 => self.stack.push(Value::Inert),
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.stack.push(Value::Int(i64::from(value)));
                }
                b'K' => {
                    let value = self.byte()?;
                    self.stack.push(Value::Int(i64::from(value)));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.stack.push(Value::Int(i64::from(value)));
                }
                0x8a => {
                    let count = self.short()?;
                    let value = integer(self.take(count)?);
                    self.stack.push(value);
                }
                b'I' | b'L' => {
                    let value = match self.line()?.trim_end_matches('L') {
                        "00" | "01" => Value::Inert,
                        text => Value::Int(text.parse().map_err(|_| "a number is none")?),
                    };
                    self.stack.push(value);
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Inert);
                }
                b'F' => {
                    self.line()?;
                    self.stack.push(Value::Inert);
                }
                b'X' => {
                    let count = self.long()?;
                    self.text(count)?;
                }
                0x8c => {
                    let count = self.short()?;
                    self.text(count)?;
                }
                0x8d => {
                    let count = self.longer()?;
                    self.text(count)?;
                }
                b'V' => {
                    let text = self.line()?.to_owned();
                    self.stack.push(Value::Text(text));
                }
                b'U' | b'C' => {
                    let count = self.short()?;
                    match code {
                        // Python 2's strings: names of parameters.
                        b'U' => self.text(count)?,
                        _ => self.raw(count)?,
                    }
                }
                b'T' => {
                    let count = self.long()?;
                    self.text(count)?;
                }
                b'B' => {
                    let count = self.long()?;
                    self.raw(count)?;
                }
                0x8e | 0x96 => {
                    let count = self.longer()?;
                    self.raw(count)?;
                }
                b')' => self.push(Value::Tuple(Rc::default())),
                b't' => {
                    let items = self.till_mark()?;
                    self.push(Value::Tuple(Rc::new(items)));
                }
                0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
                b']' | 0x8f => self.push(Value::List(Rc::default())),
                b'l' | 0x91 => {
                    let items = self.till_mark()?;
                    self.push(Value::List(Rc::new(RefCell::new(items))));
                }
                b'}' => self.push(Value::Dict(Rc::default())),
                b'd' => {
                    let items = self.till_mark()?;
                    self.push(Value::Dict(Rc::default()));
                    self.set(items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.till_mark()?;
                    self.extend(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![key, value])?;
                }
                b'u' => {
                    let items = self.till_mark()?;
                    self.set(items)?;
                }
                b'q' => {
                    let key = self.short()?;
                    self.remember(key)?;
                }
                b'r' => {
                    let key = self.long()?;
                    self.remember(key)?;
                }
                b'p' => {
                    let key = self.line()?.parse().map_err(|_| "a memo is none")?;
                    self.remember(key)?;
                }
                0x94 => self.remember(self.memo.len())?,
                b'h' => {
                    let key = self.short()?;
                    self.recall(key)?;
                }
                b'j' => {
                    let key = self.long()?;
                    self.recall(key)?;
                }
                b'g' => {
                    let key = self.line()?.parse().map_err(|_| "a memo is none")?;
                    self.recall(key)?;
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.stack.push(Value::Global(name.into()));
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => {
                        let name = format!("{module}.{name}");
                        self.stack.push(Value::Global(name.into()));
                    }
                    _ => return Err("a name is no text".to_owned()),
                },
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.push(call(&function, &arguments)?);
                }
                0x92 => {
                    let (_, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                    self.push(call(&function, &arguments)?);
                }
                b'o' => {
                    let items = self.till_mark()?;
                    let function = items.first().ok_or("an object without a class")?;
                    let made = call(function, &Value::Inert)?;
                    self.push(made);
                }
                b'i' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.till_mark()?;
                    self.push(Value::object(name));
                }
                // State for an object: its fields, or `_metadata` of a state dict.
                b'b' => {
                    let state = self.pop()?;
                    if let Some(Value::Object(object)) = self.stack.last() {
                        object.state.replace(Some(state));
                    }
                }
                b'Q' => match self.pop()? {
                    Value::Tuple(id) => self.push(Value::Persistent(id)),
                    _ => return Err("a persistent id is no tuple".to_owned()),
                },
                other => return Err(format!("pickle code {other:#04x} is not known")),
            }
        }
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

/// The few functions whose result is data; any other name yields an inert object.
fn call(function: &Value, arguments: &Value) -> Result<Value, String> {
    let name: Rc<str> = match function {
        Value::Global(name) => name.clone(),
        Value::Object(object) => object.name.clone(),
        _ => return Err("what is called has no name".to_owned()),
    };
    let arguments: &[Value] = match arguments {
        Value::Tuple(items) => items,
        _ => &[],
    };
    match (&*name, arguments) {
        ("collections.OrderedDict" | "collections.defaultdict" | "builtins.dict", _) => {
            Ok(Value::Dict(Rc::default()))
        }
        ("torch.Size", [sizes]) => Ok(sizes.clone()),
        (
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
            [Value::Persistent(storage), offset, sizes, strides, ..],
        ) => {
            let sizes = sizes.counts().ok_or("a tensor's sizes are no numbers")?;
            let strides = strides
                .counts()
                .ok_or("a tensor's strides are no numbers")?;
            if sizes.len() != strides.len() {
                return Err("a tensor has other strides than sizes".to_owned());
            }
            Ok(Value::Tensor(Rc::new(TensorRef {
                storage: storage.clone(),
                offset: offset.count().ok_or("a tensor's offset is no number")?,
                sizes,
                strides,
            })))
        }
        ("torch._utils._rebuild_parameter", [data, ..]) => Ok(data.clone()),
        _ => Ok(Value::object(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_levels_are_let_go_one_by_one() {
        let deep = 1_000_000;
        let tuples = [&b")"[..], &b"\x85".repeat(deep)].concat();
        assert!(run(&[&tuples[..], b"."].concat()).is_ok());
        // Dropped on the way, and refused.
        assert!(run(&[&tuples[..], b"0N."].concat()).is_ok());
        assert!(run(&[&tuples[..], b"\xff"].concat()).is_err());
        // The last list is recalled, a new one remembered and appended to it.
        let step = b"h\x01]q\x01a0";
        let lists = [&b"]q\x01"[..], &step.repeat(deep), b"."].concat();
        assert!(run(&lists).is_ok());
    }
}
