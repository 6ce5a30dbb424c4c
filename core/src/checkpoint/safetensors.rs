//! The safetensors format.

use std::collections::{BTreeMap, HashMap};

use safetensors::{Dtype, SafeTensors};

use super::entry::{Bytes, Element, Entry};

/// Tensors by name, and the metadata.
pub(super) type Contents = (BTreeMap<String, Entry>, HashMap<String, String>);

pub(super) fn contents(bytes: &[u8]) -> Result<Contents, String> {
    if bytes.is_empty() {
        return Err("expected a checkpoint, the file is empty".to_owned());
    }
    // This compares offsets and lengths with the bytes that are there.
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
        format!(
            "expected a safetensors file, got {} bytes that are not one ({e}): truncated, or another \
             format",
            bytes.len()
        )
    })?;
    if let Some(name) = repeated(&bytes[8..8 + header]) {
        return Err(format!("its header names {name:?} twice"));
    }
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let element = match info.dtype {
            Dtype::F64 => Element::F64,
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::BF16,
            Dtype::I64 => Element::I64,
            Dtype::I32 => Element::I32,
            Dtype::I16 => Element::I16,
            Dtype::I8 => Element::I8,
            Dtype::U8 => Element::U8,
            Dtype::BOOL => Element::Bool,
            other => {
                return Err(format!(
                    "{name}: elements of type {other:?} are not supported"
                ));
            }
        };
        let mut strides = vec![1; info.shape.len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * info.shape[axis];
        }
        // The values follow the header and its length of eight bytes.
        let base = header + 8;
        let (start, end) = info.data_offsets;
        let entry = Entry {
            element,
            shape: info.shape.clone(),
            strides,
            offset: 0,
            bytes: Bytes::In(base + start..base + end),
        };
        entries.insert(name, entry);
    }
    Ok((entries, metadata.metadata().clone().unwrap_or_default()))
}

/// A name that occurs twice in a header: a map would silently keep the last.
fn repeated(header: &[u8]) -> Option<String> {
    struct Names(Option<String>);
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Option<String>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a map")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(
            mut self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut seen = std::collections::BTreeSet::new();
            while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                if !seen.insert(name.clone()) {
                    self.0 = Some(name);
                }
            }
            Ok(self.0)
        }
    }
    let mut header = serde_json::Deserializer::from_slice(header);
    serde::Deserializer::deserialize_map(&mut header, Names(None)).unwrap_or_default()
}
