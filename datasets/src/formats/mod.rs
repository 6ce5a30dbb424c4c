//! The file formats, one per file. Each reads its lists strictly, and opens as an
//! [`Indexed`](crate::indexed::Indexed).
//!
//! Fields that several of them have mean the same in all:
//!
//! - `root`: the folder of the data. Lists and patterns are relative to it, and no path leaves it.
//! - `train`, `validation`, `test`: the files of each split, as paths or patterns below the root.
//! - `names`: a text file with the names of the classes, one per line. Labels are then these names
//!   or indices into them. Without it, labels that are all whole numbers are indices and their own
//!   names, and other labels are names, in the order of [`order`](crate::labels::order).
//! - `unlabelled`, `unseen`: whether images without a label, and images of classes that `train`
//!   lacks, are errors or left out.
//! - `transform`, `train_images`, `shots`: how images are resized, and a part of the training split; see
//!   [`dataset_config!`](peft_core::dataset_config).
//! - `exif`: whether images are turned upright; the default is what the format's reference does.
//! - `validation_fraction`: the part of each class of `train` that is set aside for validation
//!   where the data have no validation split. Within a class the images are ordered by a blake3
//!   hash and the first ones are taken: the fraction of them rounded to the nearest, at least one,
//!   and never the last image of a class. The field of each format says what is hashed.

mod cifar;
mod coop;
mod csv;
mod fgvc;
mod file_format;
mod folder;
mod parquet;
mod tfds;
mod vtab;
mod webdataset;

pub use self::cifar::{Cifar, CifarLabels};
pub use self::coop::{Coop, Draw};
pub use self::csv::{Csv, List, SplitColumn};
pub use self::fgvc::Fgvc;
pub use self::folder::Folder;
pub use self::parquet::Parquet;
pub use self::tfds::Tfds;
pub use self::vtab::{Protocol, Vtab};
pub use self::webdataset::WebDataset;
