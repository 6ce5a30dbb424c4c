//! Mapped parquet shards: where each image is, and the pages that were decompressed last.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::FileReader;
use ::parquet::file::serialized_reader::SerializedFileReader;
use bytes::Bytes;
use peft_core::error::listed;

use super::columns::{
    LabelColumn, NO_LABELS, class_names, label_column, leaf, read_images, read_labels, read_lists,
    rows_of_pages,
};
use crate::error::Error;
use crate::files::Place;
use crate::indexed::Source;
use crate::label_sets::JOINED;
use crate::labels::Labelled;
use crate::shards::Mapped;

/// Bytes of encoded images in the pages that are kept for the next reader.
const KEPT: usize = 256 << 20;

/// The mapped shards and the pages used last.
#[derive(Default)]
pub(super) struct Shards {
    /// The class names in the schema of the first shard that has some.
    pub names: Option<Vec<String>>,
    /// Whether the labels of a row are a list.
    pub lists: bool,
    shards: Vec<Shard>,
    /// The least recently used first.
    kept: Mutex<VecDeque<Kept>>,
}

/// Where an image is.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    shard: usize,
    /// In the whole shard, from 0.
    row: usize,
}

struct Shard {
    path: PathBuf,
    reader: SerializedFileReader<Bytes>,
    /// The leaf column of the images' bytes.
    column: usize,
    /// In the order of their rows.
    pages: Vec<Page>,
}

/// Rows that are decompressed together.
#[derive(Debug, Clone, Copy)]
struct Page {
    group: usize,
    /// The first row, counted in the row group.
    row_in_group: usize,
    /// The first row, counted in the whole shard.
    row: usize,
    rows: usize,
}

/// The encoded images of a page; `None` where a row has none.
type Images = Arc<Vec<Option<ByteArray>>>;

/// A page that was decompressed.
struct Kept {
    shard: usize,
    page: usize,
    images: Images,
    /// Of all its images together.
    bytes: usize,
}

impl Shards {
    /// Maps one more shard, reads the labels in the column `label`, and finds the pages of the
    /// images in the column `image`.
    ///
    /// # Errors
    /// A file that is not parquet, a missing column, a null label, class names that differ from
    /// those of the shards before.
    pub fn add(
        &mut self,
        path: PathBuf,
        image: &str,
        label: &str,
    ) -> Result<Vec<Labelled<At>>, Error> {
        let damaged = |error: ParquetError| unreadable(&path, &error);
        let content = Bytes::from_owner(Mapped::open(&path)?);
        let reader = SerializedFileReader::new(content).map_err(damaged)?;
        let column = leaf(&reader, &path, &[format!("{image}.bytes"), image.into()])?;
        let labels = label_column(&reader, &path, label)?;
        let lists = matches!(labels, LabelColumn::List(_));
        if lists != self.lists && !self.shards.is_empty() {
            let kind = |lists| {
                if lists {
                    "lists of labels"
                } else {
                    "one label per row"
                }
            };
            let expected = format!("{} in `{label}`, as in the shards before", kind(self.lists));
            return Err(Error::layout(path, expected, kind(lists)));
        }
        self.lists = lists;
        // Labels are indices into the names, so shards with other names would mix up the classes.
        match (class_names(&reader, label), &mut self.names) {
            (Some(own), Some(names)) if own != *names => {
                let expected = format!(
                    "the class names of the shards before ({})",
                    listed(names, 10)
                );
                return Err(Error::layout(path, expected, listed(&own, 10)));
            }
            (own, names @ None) => *names = own,
            _ => {}
        }

        let shard = self.shards.len();
        let first = Place::first(&path, "row");
        let (mut rows, mut pages) = (Vec::new(), Vec::new());
        for group in 0..reader.num_row_groups() {
            let start = rows.len();
            let row_group = reader.get_row_group(group).map_err(damaged)?;
            let texts = match labels {
                // No label, which is refused or left out later.
                LabelColumn::One(column) => read_labels(&*row_group, column)
                    .map_err(damaged)?
                    .into_iter()
                    .map(|label| Some(label.unwrap_or_default()))
                    .collect(),
                LabelColumn::List(column) => {
                    joined(read_lists(&*row_group, column).map_err(damaged)?)
                }
            };
            for label in texts {
                let row = rows.len();
                let place = first.at(row);
                let Some(label) = label else {
                    let expected = "a list of labels, empty if the image shows no class";
                    return Err(Error::record(place, expected, "null"));
                };
                let at = At { shard, row };
                rows.push(Labelled { at, label, place });
            }
            let headers = row_group.get_column_page_reader(column).map_err(damaged)?;
            // Pages are counted within their row group, images within the shard: both are noted.
            let mut row_in_group = 0;
            for page_rows in rows_of_pages(headers).map_err(damaged)? {
                pages.push(Page {
                    group,
                    row_in_group,
                    row: start + row_in_group,
                    rows: page_rows,
                });
                row_in_group += page_rows;
            }
            if row_in_group != rows.len() - start {
                let expected = format!("as many images as labels in row group {group}");
                let got = format!("{row_in_group} images, {} labels", rows.len() - start);
                return Err(Error::layout(path, expected, got));
            }
        }
        if rows.is_empty() {
            return Err(Error::layout(path, "one row per image", "no rows"));
        }
        self.shards.push(Shard {
            path,
            reader,
            column,
            pages,
        });
        Ok(rows)
    }

    /// The images of a page, kept from before or decompressed now.
    fn page(&self, shard: usize, page: usize) -> Result<Images, ParquetError> {
        // A panic of another thread leaves the queue whole: pages are only moved, never changed.
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = kept();
            let same = |kept: &Kept| (kept.shard, kept.page) == (shard, page);
            if let Some(found) = kept.iter().position(same) {
                let newest = kept.remove(found);
                kept.extend(newest);
                return Ok(kept[kept.len() - 1].images.clone());
            }
        }
        // The lock is released meanwhile, so that other threads go on. Two of them may decompress
        // the same page; that costs time, not correctness.
        let images = Arc::new(self.shards[shard].decompress(page)?);
        let newest = Kept {
            shard,
            page,
            bytes: images.iter().flatten().map(ByteArray::len).sum(),
            images: images.clone(),
        };
        let mut kept = kept();
        kept.push_back(newest);
        let mut total: usize = kept.iter().map(|kept| kept.bytes).sum();
        // A page larger than the limit is still kept, or each of its images would decompress it
        // again.
        while total > KEPT && kept.len() > 1 {
            total -= kept.pop_front().map_or(0, |kept| kept.bytes);
        }
        Ok(images)
    }
}

/// Each list as one text; none if it is null.
fn joined(lists: Vec<Option<Vec<String>>>) -> Vec<Option<String>> {
    let lists = lists.into_iter();
    lists
        .map(|labels| labels.map(|labels| labels.join(&JOINED.to_string())))
        .collect()
}

/// The error of a file whose content cannot be read, which is not always an incomplete file.
fn unreadable(path: &Path, error: &ParquetError) -> Error {
    let expected = match error {
        ParquetError::General(message) if message == NO_LABELS => {
            return Error::layout(path, "a column of whole numbers or texts", NO_LABELS);
        }
        // A codec, an encoding or an encryption.
        ParquetError::NYI(_) => "a parquet file without parts that are not supported",
        ParquetError::General(message) if message.contains("feature") => {
            "a parquet file without parts that are not supported"
        }
        _ => "a complete parquet file",
    };
    Error::layout(path, expected, error.to_string())
}

impl Shard {
    fn decompress(&self, page: usize) -> Result<Vec<Option<ByteArray>>, ParquetError> {
        let page = self.pages[page];
        let group = self.reader.get_row_group(page.group)?;
        read_images(&*group, self.column, page.row_in_group, page.rows)
    }
}

impl Source for Shards {
    type At = At;

    fn name(&self, at: &At) -> String {
        format!("`{}` row {}", self.shards[at.shard].path.display(), at.row)
    }

    fn bytes(&self, at: &At) -> Result<Cow<'_, [u8]>, Error> {
        let unread = |got: String| Error::record(self.name(at), "the bytes of an image", got);
        let pages = &self.shards[at.shard].pages;
        // The last page that starts at or before the row. The first starts at row 0, so there is
        // one.
        let page = pages.partition_point(|page| page.row <= at.row) - 1;
        let images = self
            .page(at.shard, page)
            .map_err(|error| unread(error.to_string()))?;
        let image = images.get(at.row - pages[page].row).cloned().flatten();
        image.map_or(Err(unread("null".into())), |image| {
            Ok(image.data().to_vec().into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_by_their_headers() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data/parquet");
        let pages = |name: &str| {
            let mut shards = Shards::default();
            let path = format!("{folder}/{name}.parquet").into();
            let rows = shards.add(path, "image", "label").unwrap();
            let pages = std::mem::take(&mut shards.shards[0].pages);
            assert_eq!(
                pages.iter().map(|page| page.rows).sum::<usize>(),
                rows.len()
            );
            pages.len()
        };
        assert!(pages("zstd_pages") > 4);
        assert_eq!(pages("gzip_v2"), 3, "a page for each of three row groups");
    }
}
