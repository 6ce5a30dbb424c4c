//! One file a format. Each reads what its records say, strictly, and opens as an
//! [`Indexed`](crate::indexed::Indexed).

mod cifar;
mod coop;
mod csv;
mod fgvc;
mod file_format;
mod folder;
mod parquet;
mod vtab;
mod webdataset;

pub use self::cifar::{Cifar, CifarLabels};
pub use self::coop::Coop;
pub use self::csv::{Csv, List, SplitColumn};
pub use self::fgvc::Fgvc;
pub use self::folder::Folder;
pub use self::parquet::Parquet;
pub use self::vtab::{Protocol, Vtab};
pub use self::webdataset::WebDataset;
