//! NumPy's archives: zips of `.npy` files, in which Google publishes its Vision Transformers.

use std::collections::BTreeMap;
use std::io::Cursor;

use super::archive::{Member, member, names};
use super::entry::{Bytes, Element, Entry};

/// The arrays of an `.npz` file, and the members of the zip that hold them.
///
/// # Errors
/// A line that says what is wrong with the file.
pub(super) fn entries(bytes: &[u8]) -> Result<(BTreeMap<String, Entry>, Vec<Member>), String> {
    let mut archive =
        zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("its zip is damaged: {e}"))?;
    let names = names(&archive)?;
    let (mut entries, mut members) = (BTreeMap::new(), Vec::new());
    for file in &names {
        let Some(name) = file.strip_suffix(".npy") else {
            return Err(format!("expected .npy files in it, got {file}"));
        };
        let member = member(&mut archive, file, bytes.len())?;
        let entry = array(&member.bytes, bytes).map_err(|e| format!("{name}: {e}"))?;
        entries.insert(name.to_owned(), entry);
        members.push(member);
    }
    Ok((entries, members))
}

/// Parses one `.npy`: magic number, version, a header that is a Python dictionary, and the values.
fn array(content: &Bytes, file: &[u8]) -> Result<Entry, String> {
    let bytes = content.of(file);
    if bytes.get(..6) != Some(b"\x93NUMPY") {
        return Err("expected an array of NumPy".to_owned());
    }
    // Version 1 has two bytes for the header's length, later versions have four.
    let cut_off = || "its header is cut off".to_owned();
    let (length, start) = match bytes.get(6).ok_or_else(cut_off)? {
        1 => {
            let size = bytes.get(8..10).ok_or_else(cut_off)?;
            (usize::from(u16::from_le_bytes([size[0], size[1]])), 10)
        }
        _ => {
            let size = bytes.get(8..12).ok_or_else(cut_off)?;
            let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]);
            (size as usize, 12)
        }
    };
    let end = start + length;
    let header = bytes.get(start..end).ok_or_else(cut_off)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not UTF-8")?;
    let field = |name: &str| {
        let rest = header.split_once(&format!("'{name}':"))?.1;
        Some(rest.trim_start())
    };
    let kind = field("descr").and_then(|rest| rest.split('\'').nth(1));
    let element = match kind.ok_or("its header names no type")? {
        "<f4" => Element::F32,
        "<f8" => Element::F64,
        "<f2" => Element::F16,
        "<i8" => Element::I64,
        "<i4" => Element::I32,
        "<i2" => Element::I16,
        "|i1" => Element::I8,
        "|u1" => Element::U8,
        "|b1" => Element::Bool,
        other => return Err(format!("elements of type {other} are not supported")),
    };
    let shape = field("shape").and_then(|rest| rest.split(['(', ')']).nth(1));
    let sizes = shape.ok_or("its header names no shape")?.split(',');
    let shape: Vec<usize> = sizes
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(|size| {
            size.parse()
                .map_err(|_| format!("expected a size, got {size}"))
        })
        .collect::<Result<_, _>>()?;
    let fortran = field("fortran_order").is_some_and(|rest| rest.starts_with("True"));
    let count = shape
        .iter()
        .try_fold(1usize, |n, size| n.checked_mul(*size));
    // A damaged header may claim sizes that overflow.
    let needed = count.and_then(|count| count.checked_mul(element.width()));
    if needed != Some(bytes.len() - end) {
        return Err(format!(
            "expected {shape:?} values, got {} bytes: cut off",
            bytes.len() - end
        ));
    }
    // From the axis that varies fastest: the first in Fortran's order, the last in C's.
    let mut strides = vec![1; shape.len()];
    let order: Vec<usize> = if fortran {
        (0..shape.len()).collect()
    } else {
        (0..shape.len()).rev().collect()
    };
    for pair in order.windows(2) {
        strides[pair[1]] = strides[pair[0]] * shape[pair[0]];
    }
    let bytes = match content {
        Bytes::In(range) => Bytes::In(range.start + end..range.end),
        Bytes::Own(own) => Bytes::Own(own[end..].into()),
    };
    Ok(Entry {
        element,
        shape,
        strides,
        offset: 0,
        bytes,
    })
}
