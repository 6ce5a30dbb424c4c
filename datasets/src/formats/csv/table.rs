//! The rows of tables, and the lines that they are on.

use std::borrow::Cow;
use std::path::Path;

use ::csv::{ErrorKind, Position, ReaderBuilder, StringRecord, Trim};
use peft_core::error::{listed, nearest};
use peft_core::files::read_text;

use super::{Csv, LabelColumns, List, Row};
use crate::error::Error;
use crate::files::{File, Files, Place};
use crate::label_sets::JOINED;
use crate::labels::Labelled;
use crate::shards::expand;
use crate::text::LineCounter;

impl Csv {
    /// Calls `take` with every row and the value of its split column, if there is one.
    pub(super) fn each(
        &self,
        files: &Files,
        labels: LabelColumns,
        field: &'static str,
        list: &List,
        split: Option<&str>,
        mut take: impl FnMut(Row, &str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Ok(delimiter) = u8::try_from(self.delimiter) else {
            return Err(Error::invalid(
                "delimiter",
                "an ASCII character",
                self.delimiter,
            ));
        };
        for path in expand(files.root(), field, &list.file)? {
            // Tables like GTSRB's are beside their images and name them without a folder.
            let folder: Cow<'_, str> = match (&list.images, path.parent()) {
                (Some(images), _) => images.into(),
                (None, Some(parent)) => relative(files.root(), parent),
                (None, None) => "".into(),
            };
            let text = read_text(&path)?;
            let mut lines = LineCounter::new(&text);
            let mut reader = ReaderBuilder::new()
                .delimiter(delimiter)
                .trim(Trim::All)
                .from_reader(text.as_bytes());
            let header = reader
                .headers()
                .map_err(|error| unreadable(&path, 1, &error))?
                .clone();
            let known: Vec<&str> = header.iter().collect();
            let column = |name: &str| {
                let mut places = known
                    .iter()
                    .enumerate()
                    .filter(|(_, known)| **known == name);
                let got = match (places.next(), places.next()) {
                    (Some((place, _)), None) => return Ok(place),
                    (Some(_), Some(_)) => "two of that name".to_owned(),
                    _ => columns(&known, name),
                };
                let expected = format!("a column `{name}`");
                Err(Error::layout(&path, expected, got))
            };
            let image = column(&self.path)?;
            let labels = match labels {
                LabelColumns::One(label, _) => vec![(label, column(label)?)],
                LabelColumns::OneHot(names) => {
                    let columns = names.iter().map(|name| Ok((name.as_str(), column(name)?)));
                    columns.collect::<Result<Vec<_>, Error>>()?
                }
            };
            let groups = self.group.iter().map(|name| column(name));
            let groups = groups.collect::<Result<Vec<_>, _>>()?;
            let split = split.map(column).transpose()?;
            let first = Place::first(&path, "line");
            for record in reader.records() {
                // A quoted field may hold line breaks, and the reader's own count leaves out empty
                // lines and differs where lines end in CRLF, so lines are counted in the text.
                let mut line_of = |position: Option<&Position>| {
                    lines.line_of(position.map_or(0, |position| position.byte() as usize))
                };
                let record: StringRecord =
                    record.map_err(|error| unreadable(&path, line_of(error.position()), &error))?;
                let place = first.at(line_of(record.position()));
                // The reader refuses records that are not as long as the header, so no index is out
                // of range.
                let group = groups.iter().zip(&self.group);
                let group: Vec<_> = group
                    .map(|(&i, name)| format!("{name}={}", &record[i]))
                    .collect();
                let label = match &labels[..] {
                    [(_, label)] if self.one_hot.is_empty() => record[*label].to_owned(),
                    columns => shown(columns, &record, &place)?,
                };
                let file = File::listed(&folder, &record[image], place.clone())?;
                let row = Labelled {
                    at: (file, group.join(" ")),
                    label,
                    place,
                };
                take(row, split.map_or("", |split| &record[split]))?;
            }
        }
        Ok(())
    }
}

/// The names of the columns that hold 1, joined.
fn shown(columns: &[(&str, usize)], record: &StringRecord, place: &Place) -> Result<String, Error> {
    let mut names = Vec::new();
    for &(name, column) in columns {
        match &record[column] {
            "0" => {}
            "1" => names.push(name),
            other => {
                let expected = format!("0 or 1 in `{name}`");
                return Err(Error::record(place, expected, format!("`{other}`")));
            }
        }
    }
    Ok(names.join(&JOINED.to_string()))
}

/// The columns of a header that lacks a name, with a hint where they are spelled or separated
/// otherwise.
fn columns(known: &[&str], name: &str) -> String {
    let other = |only: &str| {
        [';', '\t', '|', ',']
            .into_iter()
            .find(|c| only.contains(*c))
    };
    let hint = match known {
        [only] => other(only).map(|c| format!("set `delimiter` if {c:?} separates the columns")),
        _ => {
            let lower = name.to_lowercase();
            let same = known.iter().find(|known| known.to_lowercase() == lower);
            let near = same
                .copied()
                .or_else(|| nearest(name, known.iter().copied()));
            near.map(|near| format!("did you mean `{near}`?"))
        }
    };
    let hint = hint.map(|hint| format!(" ({hint})"));
    match known {
        [] => "an empty file".to_owned(),
        _ => format!("{}{}", listed(known, 12), hint.unwrap_or_default()),
    }
}

/// `path` below `root`, with forward slashes.
fn relative(root: &Path, path: &Path) -> Cow<'static, str> {
    let below = path.strip_prefix(root).unwrap_or(path);
    let names: Vec<_> = below.iter().map(|name| name.to_string_lossy()).collect();
    names.join("/").into()
}

/// The reader's error, with the path and the line.
fn unreadable(path: &Path, line: usize, error: &::csv::Error) -> Error {
    let (expected, got) = match error.kind() {
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => (
            format!("as many fields as the header has ({expected_len})"),
            len.to_string(),
        ),
        _ => ("a row of the table".into(), error.to_string()),
    };
    Error::record(Place::first(path, "line").at(line), expected, got)
}
