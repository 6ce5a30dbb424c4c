//! The values that a pickle builds: plain data.

use std::cell::RefCell;
use std::rc::Rc;

/// A value that a pickle builds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A value that weights do not need: `None`, a truth value, a float or bytes. Says which.
    Inert(&'static str),
    /// An integer.
    Int(i64),
    /// Text.
    Text(String),
    /// A list or a set.
    List(Rc<RefCell<Vec<Value>>>),
    /// A tuple.
    Tuple(Rc<Vec<Value>>),
    /// A dictionary, in the order of insertion.
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    /// A name `module.attribute`.
    Global(Rc<str>),
    /// A persistent id: its tuple.
    Persistent(Rc<Vec<Value>>),
    /// A tensor: storage, offset, sizes and strides in elements.
    Tensor(Rc<TensorRef>),
    /// A tensor that cannot be read, such as a sparse or a quantised one: what rebuilds it.
    Unread(Rc<str>),
    /// Stands for the result of a call that was not made.
    Object(Rc<Object>),
}

/// Stands for an object that was not made.
#[derive(Debug)]
pub struct Object {
    /// The name that would have been called.
    pub name: Rc<str>,
    /// The state that it would have been given: the fields of a TorchScript module.
    pub state: RefCell<Option<Value>>,
}

/// A tensor as a view of a storage.
#[derive(Clone, Debug)]
pub struct TensorRef {
    /// `("storage", type, key, location, count)`.
    pub storage: Rc<Vec<Value>>,
    /// The element type, if the storage is of bytes.
    pub kind: Option<Rc<str>>,
    /// Index of the first element.
    pub offset: usize,
    /// Shape.
    pub sizes: Vec<usize>,
    /// Strides in elements.
    pub strides: Vec<usize>,
}

impl Value {
    /// The text, if the value is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if the value is one and not negative.
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// What the value is, for people.
    pub fn what(&self) -> String {
        match self {
            Self::Inert(what) => (*what).to_owned(),
            Self::Int(value) => format!("the integer {value}"),
            Self::Text(_) => "a text".to_owned(),
            Self::List(items) => format!("a list of {}", items.borrow().len()),
            Self::Tuple(items) => format!("a tuple of {}", items.len()),
            Self::Dict(items) => format!("a dict of {}", items.borrow().len()),
            Self::Global(name) => format!("the name {name}"),
            Self::Persistent(_) => "a storage".to_owned(),
            Self::Tensor(_) => "a tensor".to_owned(),
            Self::Unread(name) => format!("a tensor by {name}"),
            Self::Object(object) => format!("a {}", object.name),
        }
    }

    pub(super) fn object(name: impl Into<Rc<str>>) -> Self {
        let (name, state) = (name.into(), RefCell::new(None));
        Self::Object(Rc::new(Object { name, state }))
    }

    pub(super) fn counts(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple(items) => items.iter().map(Self::count).collect(),
            Self::List(items) => items.borrow().iter().map(Self::count).collect(),
            _ => None,
        }
    }
}

/// All containers in the order in which they were made. A pickle may nest a million of them, and
/// dropping the outermost would recurse as deep and overflow the stack; here they are dropped one by
/// one.
#[derive(Default)]
pub(super) struct Kept(Vec<Value>);

impl Kept {
    /// Keeps a value that may hold others.
    pub(super) fn push(&mut self, value: Value) {
        self.0.push(value);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Containers that can be filled later may hold values that were made later: empty them first.
        for value in &self.0 {
            match value {
                Value::List(items) => drop(items.take()),
                Value::Dict(items) => drop(items.take()),
                Value::Object(object) => drop(object.state.take()),
                _ => {}
            }
        }
        // A tuple only holds values that were made before it, which are still kept when it is dropped.
        while self.0.pop().is_some() {}
    }
}
