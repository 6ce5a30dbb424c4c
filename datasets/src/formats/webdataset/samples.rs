//! The samples of a shard: members that share a name up to the first dot, put together as they come.

use std::collections::{BTreeMap, HashMap, HashSet};

use peft_core::error::listed;
use peft_core::files::text_of;

use super::member::Member;
use crate::error::Error;
use crate::files::Place;
use crate::kinds::EXTENSIONS;
use crate::labels::Labelled;

/// Members that are no part of a sample, by their extension.
pub(super) type PassedOver = BTreeMap<String, usize>;

/// `2 .json, 1 .txt`, or `neither`.
pub(super) fn counted(members: &PassedOver) -> String {
    let kinds: Vec<String> = members
        .iter()
        .map(|(extension, count)| format!("{count} {extension}"))
        .collect();
    match kinds.is_empty() {
        true => "neither".into(),
        false => listed(&kinds, 10),
    }
}

/// The samples of a shard, put together as their members come.
pub(super) struct Samples<'a> {
    /// The field of the `.json` that holds the label; without it, a `.cls` is the label.
    field: Option<&'a str>,
    /// The keys in the order in which they come in the shard: the map has none of its own.
    order: Vec<String>,
    parts: HashMap<String, Parts>,
    /// Members with several dots that would be part of a sample if names were cut at the last one.
    dotted: Vec<Dotted>,
    /// Members of texts that are no label here: their key and extension.
    texts: Vec<(String, String)>,
    passed_over: PassedOver,
}

/// A member such as `img.v1.png`.
struct Dotted {
    /// `img`.
    key: String,
    /// `img.v1`.
    stem: String,
    /// Whether the last extension is that of an image; else it is that of labels.
    image: bool,
    name: Box<str>,
    place: Place,
}

/// The extensions that stand for an image only where a sample has no other.
const LESS_USUAL: [&str; 6] = ["pgm", "pbm", "pnm", "tif", "tiff", "jfif"];

/// The extensions of texts.
const TEXTS: [&str; 3] = ["json", "txt", "cls"];

struct Picture {
    member: Member,
    place: Place,
    /// Not one of [`LESS_USUAL`].
    usual: bool,
}

/// The members of a sample that were seen so far, and their places.
#[derive(Default)]
struct Parts {
    image: Option<Picture>,
    label: Option<(String, Place)>,
    /// The extension of a text that is no label here.
    text: Option<String>,
}

impl<'a> Samples<'a> {
    pub fn new(field: Option<&'a str>) -> Self {
        Self {
            field,
            order: Vec::new(),
            parts: HashMap::new(),
            dotted: Vec::new(),
            texts: Vec::new(),
            passed_over: PassedOver::new(),
        }
    }

    /// The extension of the members that hold labels.
    fn label_extension(&self) -> &'static str {
        if self.field.is_some() { "json" } else { "cls" }
    }

    /// Takes a member of the shard, whose content is `content`; one that is neither an image nor a
    /// label is passed over.
    pub fn take(&mut self, member: Member, place: Place, content: &[u8]) -> Result<(), Error> {
        let name = member.name.clone();
        let Some((key, extension)) = split_name(&name) else {
            self.pass_over("without an extension");
            return Ok(());
        };
        // A shard whose copy was interrupted still has whole headers.
        let Some(value) = content.get(member.bytes.clone()) else {
            let expected = format!("the {} bytes of `{name}`", member.bytes.len());
            let got = content.len().saturating_sub(member.bytes.start);
            return Err(Error::record(place, expected, format!("{got} of them")));
        };
        let (kind, earlier) = if EXTENSIONS.contains(&extension.as_str()) {
            let sample = self.sample(key);
            let usual = !LESS_USUAL.contains(&extension.as_str());
            let earlier = sample.image.take();
            let (image, other) = match earlier {
                // A mask beside the image, most likely.
                Some(earlier) if earlier.usual && !usual => (earlier, Some(extension)),
                Some(earlier) if !earlier.usual && usual => {
                    let (_, other) = split_name(&earlier.member.name).unwrap_or_default();
                    (
                        Picture {
                            member,
                            place: place.clone(),
                            usual,
                        },
                        Some(other),
                    )
                }
                Some(earlier) => {
                    return Err(Error::Twice {
                        image: format!("the image of `{key}`"),
                        first: earlier.place.to_string(),
                        second: place.to_string(),
                    });
                }
                None => (
                    Picture {
                        member,
                        place: place.clone(),
                        usual,
                    },
                    None,
                ),
            };
            sample.image = Some(image);
            if let Some(other) = other {
                self.pass_over(&format!(".{other}"));
            }
            return Ok(());
        } else if extension == self.label_extension() {
            let text = label_of(value, self.field).map_err(|(expected, got)| {
                Error::record(format!("{place} (`{name}`)"), expected, got)
            })?;
            let earlier = self.sample(key).label.replace((text, place.clone()));
            ("label", earlier.map(|(_, place)| place))
        } else {
            match TEXTS.contains(&extension.as_str()) {
                true => self.texts.push((key.to_owned(), extension.clone())),
                false => self.pass_over(&format!(".{extension}")),
            }
            if let Some((stem, last)) = extension.rsplit_once('.') {
                let image = EXTENSIONS.contains(&last);
                if image || last == self.label_extension() {
                    self.dotted.push(Dotted {
                        key: key.to_owned(),
                        stem: format!("{key}.{stem}"),
                        image,
                        name,
                        place,
                    });
                }
            }
            return Ok(());
        };
        match earlier {
            None => Ok(()),
            Some(earlier) => Err(Error::Twice {
                image: format!("the {kind} of `{key}`"),
                first: earlier.to_string(),
                second: place.to_string(),
            }),
        }
    }

    /// The parts with this key, noted when it is new.
    fn sample(&mut self, key: &str) -> &mut Parts {
        self.parts.entry(key.to_owned()).or_insert_with(|| {
            self.order.push(key.to_owned());
            Parts::default()
        })
    }

    /// Counts a member that is no part of a sample.
    fn pass_over(&mut self, extension: &str) {
        *self.passed_over.entry(extension.to_owned()).or_default() += 1;
    }

    /// The samples in the order of the shard, and what was passed over.
    ///
    /// # Errors
    /// A sample that lacks its image or its label, or whose name has a dot. An image such as
    /// `a.seg.png` beside `a.png` is another part of one sample; but where there is no `a.png`, or
    /// there is an `a.seg.cls`, the image is meant to be a sample.
    pub fn finish(mut self) -> Result<(Vec<Labelled<Member>>, PassedOver), Error> {
        let labels = self.dotted.iter().filter(|dotted| !dotted.image);
        let labels: HashSet<&str> = labels.map(|dotted| dotted.stem.as_str()).collect();
        let cut = self.dotted.iter().find(|dotted| {
            let sample = self.parts.get(&dotted.key);
            let whole = sample.is_some_and(|sample| sample.image.is_some());
            dotted.image && (!whole || labels.contains(dotted.stem.as_str()))
        });
        if let Some(Dotted {
            key, name, place, ..
        }) = cut
        {
            let expected = "a name without a dot before its extension, as names are cut at the \
                            first dot";
            let got = format!("`{name}`, which would be a part of the sample `{key}`");
            return Err(Error::record(place, expected, got));
        }
        // A text beside an image is usual, and not counted.
        for (key, extension) in std::mem::take(&mut self.texts) {
            match self.parts.get_mut(&key) {
                Some(parts) => parts.text = Some(extension),
                None => self.pass_over(&format!(".{extension}")),
            }
        }
        let extension = self.label_extension();
        let order = std::mem::take(&mut self.order).into_iter();
        let whole = order.map(|key| {
            let Parts { image, label, text } = self.parts.remove(&key).unwrap_or_default();
            match (image, label) {
                (Some(Picture { member: at, .. }), Some((label, place))) => {
                    Ok(Labelled { at, label, place })
                }
                (Some(Picture { place, .. }), None) => {
                    let expected = format!("a `{key}.{extension}` beside the image");
                    let got = match text.as_deref() {
                        Some("json") => "a `.json`; `label` names its field that holds the label",
                        Some("cls") => "a `.cls`; without `label` that is the label",
                        Some(_) => "a text of another kind",
                        None => "none",
                    };
                    Err(Error::record(place, expected, got))
                }
                (None, Some((_, place))) => {
                    let expected = format!("an image of `{key}` beside its label");
                    Err(Error::record(place, expected, "none"))
                }
                (None, None) => unreachable!("a key is noted with its first part"),
            }
        });
        Ok((whole.collect::<Result<_, _>>()?, self.passed_over))
    }
}

/// A member's key and its extension in lower case: the parts before and after the first dot of its
/// file name. `None` for a hidden file and for a name without a dot.
pub(super) fn split_name(name: &str) -> Option<(&str, String)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.')?;
    (dot > start).then(|| (&name[..dot], name[dot + 1..].to_lowercase()))
}

/// The text of a `.cls`, or the value of a field of a `.json`; or else what was expected and what
/// was found.
fn label_of(bytes: &[u8], field: Option<&str>) -> Result<String, (String, String)> {
    let Some(field) = field else {
        let text = text_of(bytes).map(str::trim).unwrap_or_default();
        let got = || format!("{} bytes that are not text", bytes.len());
        return match text.is_empty() {
            true => Err(("the text of a label".into(), got())),
            false => Ok(text.to_owned()),
        };
    };
    let expected = || format!("an object with a number or a string in `{field}`");
    let text = text_of(bytes).map_err(|got| (expected(), got))?;
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| (expected(), error.to_string()))?;
    match &value[field] {
        serde_json::Value::Number(number) => Ok(number.to_string()),
        serde_json::Value::String(text) => Ok(text.clone()),
        // No label, which is refused or left out later.
        serde_json::Value::Null if value.get(field).is_some() => Ok(String::new()),
        other => Err((expected(), other.to_string())),
    }
}
