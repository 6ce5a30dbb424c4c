//! PyTorch's checkpoints: today's zip, the sequence of pickles from before version 1.6, and
//! TorchScript's archives, such as OpenAI's of CLIP.
//!
//! Only tensors are read; nothing that a file names is ever called (see [`super::pickle`]). In a
//! TorchScript archive the tensors are the fields of its modules, named by their path; its code is
//! ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::rc::Rc;

use super::archive::{Member, member, names};
use super::entry::{Bytes, Element, Entry};
use super::pickle::{self, Object, Pickled, SCRIPTED, TensorRef, Value};
use super::sets::Sets;

/// The content of a file of PyTorch.
pub(super) struct Contents {
    /// The tensors of one set of weights, by name.
    pub entries: BTreeMap<String, Entry>,
    /// Every set of weights in the file, and which of them this is.
    pub sets: Sets,
    /// The keys of this set whose values are not tensors, with what they are.
    pub others: BTreeMap<String, String>,
    /// The keys of the file under which there is no set of weights, with what they hold.
    pub beside: BTreeMap<String, String>,
    /// The functions and classes that its pickles name besides those of tensors.
    pub foreign: BTreeSet<String>,
    /// The members of the zip that hold these tensors; none in a file without checksums.
    pub members: Vec<Member>,
}

/// The contents of a `.pth`, `.pt` or `.bin` file, with the set of weights under `key`; without one,
/// [`Sets::choose`] does.
///
/// # Errors
/// A line that says what is wrong with the file.
pub(super) fn contents(bytes: &[u8], key: Option<&str>) -> Result<Contents, String> {
    if bytes.starts_with(b"PK\x03\x04") {
        zipped(bytes, key)
    } else {
        legacy(bytes, key)
    }
}

/// The bytes of storages, by key.
struct Storages(BTreeMap<String, Bytes>);

fn zipped(bytes: &[u8], key: Option<&str>) -> Result<Contents, String> {
    let mut archive =
        zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("its zip is damaged: {e}"))?;
    let names = names(&archive)?;
    let pickle = names
        .iter()
        .find(|name| name.ends_with("/data.pkl") || *name == "data.pkl");
    let pickle =
        pickle.ok_or("its zip does not contain data.pkl, so it is not a file of torch.save")?;
    let root = pickle.trim_end_matches("data.pkl");
    if let Some(order) = names
        .iter()
        .find(|name| **name == format!("{root}byteorder"))
    {
        let order = member(&mut archive, order, bytes.len())?;
        let text = String::from_utf8_lossy(order.content(bytes)?).into_owned();
        if text.trim() != "little" {
            return Err(format!(
                "its byte order is {}, expected little",
                text.trim()
            ));
        }
    }
    let program = member(&mut archive, pickle, bytes.len())?;
    let pickled = pickle::run(program.content(bytes)?)?;
    let (mut storages, mut members) = (BTreeMap::new(), Vec::new());
    let data = format!("{root}data/");
    for name in &names {
        if let Some(key) = name.strip_prefix(&data) {
            let member = member(&mut archive, name, bytes.len())?;
            storages.insert(key.to_owned(), member.bytes.clone());
            members.push(member);
        }
    }
    let mut contents = tensors(&pickled, &Storages(storages), key)?;
    let entries = contents.entries.values();
    let read: BTreeSet<_> = entries.map(|entry| entry.bytes.place()).collect();
    members.retain(|member| read.contains(&member.bytes.place()));
    contents.members = members;
    Ok(contents)
}

/// The magic number at the beginning of a file from before version 1.6.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Whether a file begins as `torch.save` wrote it before version 1.6: after the protocol comes the
/// magic number, a pickled integer of ten bytes.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.get(2..4) == Some(&[0x8a, 10]) && bytes.get(4..14) == Some(MAGIC)
}

fn legacy(bytes: &[u8], key: Option<&str>) -> Result<Contents, String> {
    let (mut at, mut foreign) = (0, BTreeSet::new());
    let mut next = || -> Result<Pickled, String> {
        let mut pickled = pickle::run(&bytes[at..])?;
        at += pickled.taken;
        foreign.append(&mut pickled.foreign);
        Ok(pickled)
    };
    // Magic number, protocol and system information come first.
    let (_, _, _, pickled) = (next()?, next()?, next()?, next()?);
    let (value, keys) = (&pickled.value, next()?);
    let Value::List(keys) = &keys.value else {
        return Err("it does not list its storages".to_owned());
    };
    // The storages follow in that order, each after its number of elements. Their element types are
    // known only from the tensors.
    let mut types = BTreeMap::new();
    each_tensor(value, &mut |tensor| {
        if let [_, Value::Global(kind), Value::Text(key), ..] = &tensor.storage[..] {
            types.insert(key.clone(), kind.clone());
        }
    });
    let mut storages = BTreeMap::new();
    for key in keys.borrow().iter() {
        let key = key.text().ok_or("a storage's key is not a string")?;
        let Some(header) = bytes.get(at..at + 8) else {
            return Err(format!("storage {key} is cut off"));
        };
        let mut count = [0; 8];
        count.copy_from_slice(header);
        let element = types.get(key).map(|kind| element(kind)).transpose()?;
        let width = element.map_or(0, Element::width);
        let size = usize::try_from(u64::from_le_bytes(count))
            .ok()
            .and_then(|count| count.checked_mul(width));
        let start = at + 8;
        let end = size
            .and_then(|size| start.checked_add(size))
            .filter(|end| element.is_some() && *end <= bytes.len());
        let end = end.ok_or_else(|| match element {
            Some(_) => format!("storage {key} is cut off"),
            None => format!("storage {key} belongs to no dense tensor"),
        })?;
        storages.insert(key.to_owned(), Bytes::In(start..end));
        at = end;
    }
    let mut contents = tensors(&pickled, &Storages(storages), key)?;
    contents.foreign = foreign;
    Ok(contents)
}

/// The tensors of one set of weights of a file.
fn tensors(pickled: &Pickled, storages: &Storages, key: Option<&str>) -> Result<Contents, String> {
    let root = &pickled.value;
    let sets = Sets::of(root);
    let mut contents = Contents {
        entries: BTreeMap::new(),
        others: BTreeMap::new(),
        beside: BTreeMap::new(),
        foreign: pickled.foreign.clone(),
        members: Vec::new(),
        sets,
    };
    let (entries, mut failure) = (&mut contents.entries, None);
    let mut found = |name: &str, tensor: &TensorRef| match entry(tensor, storages) {
        Ok(entry) => {
            if entries.insert(name.to_owned(), entry).is_some() {
                failure.get_or_insert(format!("{name} occurs twice"));
            }
        }
        Err(e) => {
            failure.get_or_insert(format!("{name}: {e}"));
        }
    };
    match root {
        Value::Object(object) if object.name.starts_with(SCRIPTED) => {
            if let Some(key) = key {
                return Err(format!(
                    "TorchScript's archives have one set of weights, got the key {key:?}"
                ));
            }
            let mut left = MODULES;
            visit_module(object, "", DEPTH, &mut left, &mut found)?;
        }
        Value::Object(object) => {
            return Err(format!(
                "it holds a pickled {}, whose code is not run; expected a state dict of tensors",
                object.name
            ));
        }
        _ => {
            let set = contents.sets.choose(key)?;
            contents.beside = contents.sets.beside(root);
            for (name, value) in set.borrow().iter() {
                let name = match name {
                    Value::Text(name) => name.clone(),
                    Value::Int(number) => number.to_string(),
                    other => other.what(),
                };
                match value {
                    Value::Tensor(tensor) => found(&name, tensor),
                    Value::Unread(what) => {
                        return Err(format!(
                            "{name}: expected a dense tensor, got one by {what}"
                        ));
                    }
                    other => drop(contents.others.insert(name, other.what())),
                }
            }
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None if contents.entries.is_empty() => {
            Err("it does not contain a state dict of tensors".to_owned())
        }
        None => Ok(contents),
    }
}

/// Visits every tensor in dictionaries, lists and tuples, wherever it lies.
fn each_tensor(value: &Value, found: &mut impl FnMut(&TensorRef)) {
    // A list of what is left and not recursion, because a file may nest as deep as it likes; containers
    // that were seen are left out, because one may lie in itself.
    let (mut left, mut seen) = (vec![value.clone()], BTreeSet::new());
    while let Some(value) = left.pop() {
        match &value {
            Value::Tensor(tensor) => found(tensor),
            Value::Dict(items) if seen.insert(Rc::as_ptr(items).addr()) => {
                left.extend(items.borrow().iter().map(|(_, value)| value.clone()));
            }
            Value::List(items) if seen.insert(Rc::as_ptr(items).addr()) => {
                left.extend(items.borrow().iter().cloned());
            }
            Value::Tuple(items) if seen.insert(Rc::as_ptr(items).addr()) => {
                left.extend(items.iter().cloned());
            }
            Value::Object(object) if seen.insert(Rc::as_ptr(object).addr()) => {
                left.extend(object.state.borrow().clone());
            }
            _ => {}
        }
    }
}

/// Limits for the nesting and the number of modules: a file may nest a module in itself.
const DEPTH: usize = 64;
const MODULES: usize = 100_000;

/// Visits every tensor below a TorchScript module; names begin with `prefix`.
fn visit_module(
    module: &Object,
    prefix: &str,
    depth: usize,
    left: &mut usize,
    found: &mut impl FnMut(&str, &TensorRef),
) -> Result<(), String> {
    let counted = left.checked_sub(1).filter(|_| depth > 0);
    *left = counted.ok_or_else(|| format!("{prefix} nests too many modules"))?;
    let Some(Value::Dict(fields)) = &*module.state.borrow() else {
        return Ok(());
    };
    for (key, value) in fields.borrow().iter() {
        let Some(key) = key.text() else { continue };
        match value {
            Value::Tensor(tensor) => found(&format!("{prefix}{key}"), tensor),
            Value::Object(inner) if inner.name.starts_with(SCRIPTED) => {
                visit_module(inner, &format!("{prefix}{key}."), depth - 1, left, found)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The element type by the name of a storage, or of torch's element type where a storage is of bytes.
fn element(kind: &str) -> Result<Element, String> {
    Ok(
        match kind
            .trim_start_matches("torch.")
            .trim_start_matches("cuda.")
        {
            "float64" => Element::F64,
            "float32" => Element::F32,
            "float16" => Element::F16,
            "bfloat16" => Element::BF16,
            "int64" => Element::I64,
            "int32" => Element::I32,
            "int16" => Element::I16,
            "int8" => Element::I8,
            "uint8" => Element::U8,
            "bool" => Element::Bool,
            "FloatStorage" => Element::F32,
            "DoubleStorage" => Element::F64,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::BF16,
            "LongStorage" => Element::I64,
            "IntStorage" => Element::I32,
            "ShortStorage" => Element::I16,
            "CharStorage" => Element::I8,
            "ByteStorage" | "UntypedStorage" | "storage.UntypedStorage" => Element::U8,
            "BoolStorage" => Element::Bool,
            other => return Err(format!("elements of type {other} are not supported")),
        },
    )
}

fn entry(tensor: &TensorRef, storages: &Storages) -> Result<Entry, String> {
    let [_, Value::Global(kind), Value::Text(key), ..] = &tensor.storage[..] else {
        return Err("its storage is not described".to_owned());
    };
    let element = element(tensor.kind.as_ref().unwrap_or(kind))?;
    let storage = storages.0.get(key).ok_or("its storage is missing")?;
    // The last element of the view must lie in the storage.
    let mut reach = tensor.sizes.iter().zip(&tensor.strides);
    let reach = reach.try_fold(tensor.offset, |at, (size, stride)| {
        let last = size
            .checked_sub(1)
            .unwrap_or_default()
            .checked_mul(*stride)?;
        at.checked_add(last)
    });
    // A view without elements reaches nothing, whatever its offset.
    let empty = tensor.sizes.contains(&0);
    let end = reach.and_then(|last| last.checked_add(1)?.checked_mul(element.width()));
    if !empty && end.is_none_or(|end| end > storage.len()) {
        return Err("it reaches beyond its storage".to_owned());
    }
    Ok(Entry {
        element,
        shape: tensor.sizes.clone(),
        strides: tensor.strides.clone(),
        offset: tensor.offset,
        bytes: storage.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_inside_itself_is_an_error() {
        // M = __torch__.M.__new__(); M.__setstate__({"a": M})
        let program = b"c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub.";
        let pickled = pickle::run(program).unwrap();
        assert_eq!(pickled.taken, program.len());
        let error = tensors(&pickled, &Storages(BTreeMap::new()), None)
            .err()
            .unwrap();
        assert!(error.contains("a.a.a. nests too many modules"), "{error}");
    }
}
