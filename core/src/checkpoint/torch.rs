//! PyTorch's checkpoints: today's zip, the sequence of pickles from before version 1.6, and
//! TorchScript's archives, such as OpenAI's of CLIP.
//!
//! Only tensors are read; nothing that a file names is ever called (see [`super::pickle`]). In a
//! TorchScript archive the tensors are the fields of its modules, named by their path; its code is
//! ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};

use super::archive::{member, names};
use super::entry::{Bytes, Element, Entry};
use super::pickle::{self, Object, Pickled, SCRIPTED, TensorRef, Value};

/// The keys under which files that hold more than weights store the state dict.
const STATES: [&str; 6] = [
    "state_dict",
    "model",
    "model_state",
    "module",
    "teacher",
    "net",
];

/// The content of a file of PyTorch.
pub(super) struct Contents {
    /// The tensors by name.
    pub entries: BTreeMap<String, Entry>,
    /// The functions and classes that its pickles name besides those of tensors.
    pub foreign: BTreeSet<String>,
}

/// The contents of a `.pth`, `.pt` or `.bin` file.
///
/// # Errors
/// A line that says what is wrong with the file.
pub(super) fn contents(bytes: &[u8]) -> Result<Contents, String> {
    if bytes.starts_with(b"PK\x03\x04") {
        zipped(bytes)
    } else {
        legacy(bytes)
    }
}

/// The bytes of storages, by key.
struct Storages(BTreeMap<String, Bytes>);

fn zipped(bytes: &[u8]) -> Result<Contents, String> {
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
        let mut text = String::new();
        let mut file = archive.by_name(order).map_err(|e| e.to_string())?;
        file.read_to_string(&mut text).map_err(|e| e.to_string())?;
        if text.trim() != "little" {
            return Err(format!(
                "its byte order is {}, expected little",
                text.trim()
            ));
        }
    }
    let program = member(&mut archive, pickle, bytes.len())?;
    let pickled = pickle::run(program.of(bytes))?;
    let mut storages = BTreeMap::new();
    let data = format!("{root}data/");
    for name in &names {
        if let Some(key) = name.strip_prefix(&data) {
            storages.insert(key.to_owned(), member(&mut archive, name, bytes.len())?);
        }
    }
    Ok(Contents {
        entries: tensors(&pickled.value, &Storages(storages))?,
        foreign: pickled.foreign,
    })
}

/// The magic number at the beginning of a file from before version 1.6.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Whether a file begins as `torch.save` wrote it before version 1.6: after the protocol comes the
/// magic number, a pickled integer of ten bytes.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.get(2..4) == Some(&[0x8a, 10]) && bytes.get(4..14) == Some(MAGIC)
}

fn legacy(bytes: &[u8]) -> Result<Contents, String> {
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
    visit(value, &mut |_, tensor| {
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
        let end = end.ok_or_else(|| format!("storage {key} is cut off"))?;
        storages.insert(key.to_owned(), Bytes::In(start..end));
        at = end;
    }
    Ok(Contents {
        entries: tensors(value, &Storages(storages))?,
        foreign,
    })
}

/// The tensors of the state dict, which is the whole file or lies under one of the usual keys.
fn tensors(root: &Value, storages: &Storages) -> Result<BTreeMap<String, Entry>, String> {
    let state = |value: &Value| {
        let mut any = false;
        visit(value, &mut |_, _| any = true);
        any
    };
    let inner = match root {
        Value::Dict(dict) => STATES.iter().find_map(|wanted| {
            let dict = dict.borrow();
            let mut own = dict.iter().filter(|(key, _)| key.text() == Some(wanted));
            own.find(|(_, value)| state(value)).map(|(_, v)| v.clone())
        }),
        _ => None,
    };
    let state = inner.as_ref().unwrap_or(root);
    let (mut entries, mut failure) = (BTreeMap::new(), None);
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
    match state {
        Value::Object(object) if object.name.starts_with(SCRIPTED) => {
            let mut left = MODULES;
            visit_module(object, "", DEPTH, &mut left, &mut found)?;
        }
        Value::Object(object) => {
            return Err(format!(
                "it holds a pickled {}, whose code is not run; expected a state dict of tensors",
                object.name
            ));
        }
        _ => visit(state, &mut found),
    }
    match failure {
        Some(failure) => Err(failure),
        None if entries.is_empty() => Err("it does not contain a state dict of tensors".to_owned()),
        None => Ok(entries),
    }
}

fn visit(value: &Value, found: &mut impl FnMut(&str, &TensorRef)) {
    if let Value::Dict(dict) = value {
        for (key, value) in dict.borrow().iter() {
            if let (Some(name), Value::Tensor(tensor)) = (key.text(), value) {
                found(name, tensor);
            }
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

fn element(kind: &str) -> Result<Element, String> {
    Ok(
        match kind
            .trim_start_matches("torch.")
            .trim_start_matches("cuda.")
        {
            "FloatStorage" => Element::F32,
            "DoubleStorage" => Element::F64,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::BF16,
            "LongStorage" => Element::I64,
            "IntStorage" => Element::I32,
            "ShortStorage" => Element::I16,
            "CharStorage" => Element::I8,
            "ByteStorage" => Element::U8,
            "BoolStorage" => Element::Bool,
            other => return Err(format!("elements of type {other} are not supported")),
        },
    )
}

fn entry(tensor: &TensorRef, storages: &Storages) -> Result<Entry, String> {
    let [_, Value::Global(kind), Value::Text(key), ..] = &tensor.storage[..] else {
        return Err("its storage is not described".to_owned());
    };
    let element = element(kind)?;
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
        let error = tensors(&pickled.value, &Storages(BTreeMap::new()))
            .err()
            .unwrap();
        assert!(error.contains("a.a.a. nests too many modules"), "{error}");
    }
}
