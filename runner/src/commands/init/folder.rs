//! Folders: of images by class, of parquet shards, and those that TensorFlow Datasets wrote.

use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use serde_json::Value as Json;

use super::seen::{LABELS, Seen, TEST_PART, extension, files, folders};
use crate::exit::{At, Failure, config_error};

/// Extensions of images, as the format `folder` reads them.
const IMAGES: [&str; 13] = [
    "png", "jpg", "jpeg", "webp", "bmp", "gif", "ppm", "pgm", "pbm", "pnm", "tif", "tiff", "jfif",
];

/// Whether a folder has an image, in it or in the folders within.
fn has_images(folder: &Path) -> Result<bool, Failure> {
    let image = |path: &PathBuf| IMAGES.contains(&extension(path).as_str());
    if files(folder)?.iter().any(image) {
        return Ok(true);
    }
    for inner in folders(folder)? {
        if has_images(&inner)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a folder has two folders or more that have images.
fn has_classes(folder: &Path) -> Result<bool, Failure> {
    let mut count = 0;
    for class in folders(folder)? {
        count += usize::from(has_images(&class)?);
        if count == 2 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Images in folders of classes, below folders of splits or not.
pub fn classes(path: &Path) -> Result<Option<Seen>, Failure> {
    let train = path.join("train");
    if train.is_dir() && has_classes(&train)? {
        let seen = Seen::new("folders of classes below folders of splits", "folder", path);
        return Ok(Some(match path.join("test").is_dir() {
            true => seen,
            false => no_test(seen, "there is no folder `test`"),
        }));
    }
    if !has_classes(path)? {
        return Ok(None);
    }
    let seen = Seen::new("folders of classes", "folder", path);
    Ok(Some(no_test(
        seen,
        "the folders do not say which images test",
    )))
}

fn no_test(seen: Seen, why: &str) -> Seen {
    seen.with("test_fraction", TEST_PART).remark(format!(
        "{why}: a part of each class is set aside, always the same"
    ))
}

/// Parquet shards: in the folder, in `data` below it, or in the only folder below it that has some. Their names
/// say which split they belong to, or the folders that they are in, `train/0000.parquet`.
pub fn parquet(path: &Path) -> Result<Option<Seen>, Failure> {
    let mut places = vec![path.to_owned(), path.join("data")];
    let below = folders(path)?;
    let mut others = Vec::new();
    for folder in below {
        let train = folder.join("train");
        if !shards(&folder)?.is_empty() || train.is_dir() && !shards(&train)?.is_empty() {
            others.push(folder);
        }
    }
    if let [only] = &others[..] {
        places.push(only.clone());
    }
    for place in places {
        if place.is_dir()
            && let Some(found) = Shards::of(&place)?
        {
            return found.seen(path, &place).map(Some);
        }
    }
    Ok(None)
}

/// The parquet files right in a folder.
fn shards(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let files = files(folder)?.into_iter();
    Ok(files.filter(|file| extension(file) == "parquet").collect())
}

/// The shards of each split in a folder: patterns below it.
struct Shards {
    /// One of the training shards.
    first: PathBuf,
    train: String,
    validation: Option<String>,
    test: Option<String>,
}

impl Shards {
    fn of(place: &Path) -> Result<Option<Self>, Failure> {
        let own = shards(place)?;
        let named = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let split = |names: &[&str]| -> Result<Option<(PathBuf, String)>, Failure> {
            for prefix in names {
                if let Some(file) = own.iter().find(|file| named(file).starts_with(prefix)) {
                    return Ok(Some((file.clone(), format!("{prefix}*.parquet"))));
                }
                let folder = place.join(prefix);
                if folder.is_dir()
                    && let Some(file) = shards(&folder)?.into_iter().next()
                {
                    return Ok(Some((file, format!("{prefix}/*.parquet"))));
                }
            }
            Ok(None)
        };
        let pattern = |found: Option<(PathBuf, String)>| found.map(|(_, pattern)| pattern);
        let validation = pattern(split(&["validation", "valid", "val", "dev"])?);
        let test = pattern(split(&["test"])?);
        let (first, train) = match (split(&["train"])?, own.into_iter().next()) {
            (Some(train), _) => train,
            // Shards that no name tells apart.
            (None, Some(first)) if validation.is_none() && test.is_none() => {
                (first, "*.parquet".to_owned())
            }
            (None, Some(first)) => {
                return Err(config_error(format_args!(
                    "{}: expected shards whose names begin with train, got {}",
                    place.display(),
                    first.display()
                )));
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Self {
            first,
            train,
            validation,
            test,
        }))
    }

    /// The configuration of the shards in `place`, which is `root` or lies in it.
    fn seen(self, root: &Path, place: &Path) -> Result<Seen, Failure> {
        let below = place.strip_prefix(root).unwrap_or(Path::new(""));
        let pattern = |pattern: String| match below.to_str() {
            None | Some("") => pattern,
            Some(below) => format!("{below}/{pattern}"),
        };
        let (image, label) = columns(&self.first)?;
        let seen = Seen::new("parquet shards", "parquet", root)
            .with("train", pattern(self.train))
            .with("image", image)
            .with("label", label);
        Ok(match (self.validation, self.test) {
            (Some(validation), Some(test)) => seen
                .with("validation", pattern(validation))
                .with("test", pattern(test)),
            (None, Some(test)) => seen.with("test", pattern(test)),
            (Some(validation), None) => seen.with("test", pattern(validation)).remark(
                "there are no shards that test: those that validate do, and a part of `train` validates",
            ),
            (None, None) => no_test(seen, "no shards test"),
        })
    }
}

/// The columns of images and labels: the one that holds bytes, and the first whose name is usual.
fn columns(shard: &Path) -> Result<(String, String), Failure> {
    let file = fs_err::File::open(shard).map_err(config_error)?;
    let reader = SerializedFileReader::new(file.into_file());
    let reader = reader.at(shard.display())?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let columns = schema.columns();
    let image = columns.iter().find(|column| {
        let path = column.path().parts();
        path.last().is_some_and(|last| last == "bytes") || path == ["image"]
    });
    let label = LABELS.iter().find_map(|name| {
        columns.iter().find(|column| {
            let plain = column.physical_type() != Type::BYTE_ARRAY
                || column.path().parts().len() == 1
                || column.max_rep_level() == 1;
            plain && column.path().parts()[0].eq_ignore_ascii_case(name)
        })
    });
    match (image, label) {
        (Some(image), Some(label)) => Ok((
            image.path().parts()[0].clone(),
            label.path().parts()[0].clone(),
        )),
        _ => {
            let names: Vec<String> = columns
                .iter()
                .map(|column| column.path().string())
                .collect();
            Err(config_error(format_args!(
                "{}: expected a column of images and one of labels ({}), got {}",
                shard.display(),
                LABELS.join(", "),
                names.join(", ")
            )))
        }
    }
}

/// The folder with `dataset_info.json`: this one, or the only one below it.
pub fn tfds_root(path: &Path) -> Result<Option<PathBuf>, Failure> {
    fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
        if folder.join("dataset_info.json").is_file() {
            found.push(folder.to_owned());
        } else if depth > 0 {
            for inner in folders(folder)? {
                search(&inner, depth - 1, found)?;
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    search(path, 3, &mut found)?;
    match &found[..] {
        [] => Ok(None),
        [root] => Ok(Some(root.clone())),
        [first, second, ..] => Err(config_error(format_args!(
            "{}: expected one folder with dataset_info.json, got {} and {}; name the one that is meant",
            path.display(),
            first.display(),
            second.display()
        ))),
    }
}

/// A folder that TensorFlow Datasets wrote.
pub fn tfds(root: &Path) -> Result<Seen, Failure> {
    let read = |name: &str| -> Result<Json, Failure> {
        let path = root.join(name);
        let text = peft_core::files::read_text(&path).map_err(config_error)?;
        serde_json::from_str(&text).at(path.display())
    };
    let (info, features) = (read("dataset_info.json")?, read("features.json")?);
    let splits: Vec<&str> = (info["splits"].as_array().into_iter().flatten())
        .filter_map(|split| split["name"].as_str())
        .collect();
    let features = features["featuresDict"]["features"].as_object();
    let is = |feature: &Json, class: &str| {
        let name = feature["pythonClassName"].as_str().unwrap_or_default();
        name.rsplit('.').next() == Some(class)
    };
    let feature = |wanted: &dyn Fn(&Json) -> bool| {
        let mut features = features.into_iter().flatten();
        let found = features.find(|(_, feature)| wanted(feature));
        found.map(|(name, _)| name.clone())
    };
    let of_class = |class: &str| feature(&|feature| is(feature, class));
    // The classes of an image with several.
    let of_classes = || {
        feature(&|feature| {
            is(feature, "Sequence") && is(&feature["sequence"]["feature"], "ClassLabel")
        })
    };
    // What the set itself calls its input and its target, if it does.
    let keys = &info["supervisedKeys"]["tuple"]["items"];
    let key = |index: usize| keys[index]["featureKey"].as_str().map(str::to_owned);
    let (Some(image), Some(label)) = (
        key(0).or_else(|| of_class("Image")),
        key(1)
            .or_else(|| of_class("ClassLabel"))
            .or_else(of_classes),
    ) else {
        return Err(config_error(format_args!(
            "{}: expected a feature of images and one of classes in features.json",
            root.display()
        )));
    };
    let seen = Seen::new("a folder of TensorFlow Datasets", "tfds", root)
        .with("image", image)
        .with("label", label);
    let has = |name: &str| splits.contains(&name);
    Ok(match (has("test"), has("validation")) {
        (true, _) => seen,
        (false, true) => seen
            .with("train", "train[10%:]")
            .with("validation", "train[:10%]")
            .with("test", "validation")
            .remark(
                "there is no split `test`: `validation` tests, and a part of `train` validates",
            ),
        (false, false) => seen
            .with("train", "train[:70%]")
            .with("validation", "train[70%:80%]")
            .with("test", "train[80%:]")
            .remark("there is no split `test`: the last fifth of `train` tests"),
    })
}
