//! The machine itself: a stack, marks and a memo, and what each instruction does to them.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::calls::{is_of_tensors, result};
use super::op;
use super::value::{Kept, Value};

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    /// Number of bytes that were taken.
    pub(super) at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Names besides those of tensors.
    pub(super) foreign: BTreeSet<String>,
    /// Declared last, so that everything else is dropped before it.
    pub(super) kept: Kept,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            foreign: BTreeSet::new(),
            kept: Kept::default(),
        }
    }

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

    pub(super) fn run(&mut self) -> Result<Value, String> {
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
