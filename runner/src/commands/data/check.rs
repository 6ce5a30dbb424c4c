//! `runner data check`: compares the files of a data set with what is known about it.

use std::collections::{BTreeMap, HashMap};

use clap::Args;
use peft_core::data::{Dataset, Image, Split, Storage};
use rayon::prelude::*;
use serde::Serialize;

use super::open::{read, unopened};
use crate::cli::args::{DatasetArgs, Format};
use crate::commands::print::json;
use crate::config::about::About;
use crate::data::subset;
use crate::exit::{Failure, config_error};

/// Check a data set on disk: counts, classes, how images are stored, unreadable images, equal images in
/// two splits.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner data check vtab-1k/caltech101 --root data/caltech101")]
pub struct CheckArgs {
    #[command(flatten)]
    pub which: DatasetArgs,
    /// Check counts and classes only, and read no image.
    #[arg(long)]
    pub quick: bool,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// The most lines of a list that are printed.
const LISTED: usize = 12;

/// The findings of a check.
#[derive(Debug, Default, Serialize)]
pub struct Found {
    title: Option<String>,
    classes: usize,
    /// Whether an image may show several classes, or none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    multi_label: bool,
    /// Images of each split.
    splits: BTreeMap<String, usize>,
    /// Images of each class in each split.
    histogram: Vec<Histogram>,
    groups: Vec<String>,
    remarks: Vec<String>,
    /// Images that are more than 8-bit RGB, and what is done with them.
    storage: Vec<Stored>,
    /// Counts and classes that differ from the known ones.
    differences: Vec<String>,
    /// Images that cannot be read, with the reason.
    unreadable: Vec<String>,
    /// Equal images in two splits, or with two labels.
    duplicates: Vec<String>,
    /// Whether every image was read.
    read: bool,
}

/// A class and the number of its images.
#[derive(Debug, Serialize)]
struct Histogram {
    class: String,
    train: usize,
    validation: usize,
    test: usize,
}

/// A property of stored images, and how many have it.
#[derive(Debug, Serialize)]
struct Stored {
    #[serde(flatten)]
    property: Storage,
    train: usize,
    validation: usize,
    test: usize,
}

/// Checks a data set: counts and classes, and every image unless told otherwise.
///
/// # Errors
/// If it cannot be opened, or, after everything was printed, if something is wrong with it.
pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let (config, about) = read(&args.which)?;
    let dataset = subset::open(&*config, 0).map_err(|e| unopened(&e, about.as_ref()))?;
    let found = found(&*dataset, about.as_ref(), !args.quick)?;
    match args.format {
        Format::Json => json(&found)?,
        Format::Text => {
            print(&found);
            if args.quick {
                println!("images were not read (--quick)");
            }
        }
    }
    // This comes after printing, so that the exit code does not cost the reader the findings.
    let wrong = found.differences.len() + found.unreadable.len() + found.duplicates.len();
    match wrong {
        0 => Ok(()),
        n => Err(config_error(format!(
            "{}: {n} things are wrong",
            args.which.dataset
        ))),
    }
}

/// The contents of a data set. Its images are decoded only if they are to be `read`.
///
/// # Errors
/// If a label is not that of a class.
pub fn found(dataset: &dyn Dataset, about: Option<&About>, read: bool) -> Result<Found, Failure> {
    let mut histogram: Vec<Histogram> = (dataset.classes().iter())
        .map(|class| Histogram {
            class: class.clone(),
            train: 0,
            validation: 0,
            test: 0,
        })
        .collect();
    for split in Split::ALL {
        for index in 0..dataset.len(split) {
            for label in dataset.labels(split, index).map_err(config_error)? {
                let Some(row) = histogram.get_mut(label) else {
                    let classes = dataset.classes().len();
                    let message = format!(
                        "{split} image {index}: expected a label below {classes}, got {label}"
                    );
                    return Err(config_error(message));
                };
                match split {
                    Split::Train => row.train += 1,
                    Split::Validation => row.validation += 1,
                    Split::Test => row.test += 1,
                }
            }
        }
    }
    let Images {
        storage,
        unreadable,
        duplicates,
    } = match read {
        true => images(dataset),
        false => Images::default(),
    };
    Ok(Found {
        title: about.map(|about| about.title.clone()),
        classes: dataset.classes().len(),
        multi_label: dataset.is_multi_label(),
        splits: Split::ALL
            .map(|split| (split.to_string(), dataset.len(split)))
            .into(),
        histogram,
        groups: dataset.groups().to_vec(),
        remarks: dataset.remarks(),
        storage,
        differences: about.map_or(Vec::new(), |about| about.differences(dataset)),
        unreadable,
        duplicates,
        read,
    })
}

/// What reading every image shows.
#[derive(Default)]
struct Images {
    storage: Vec<Stored>,
    /// Those that cannot be read.
    unreadable: Vec<String>,
    /// Those that are equal to another one in another split or with another label.
    duplicates: Vec<String>,
}

/// Reads every image.
fn images(dataset: &dyn Dataset) -> Images {
    let (mut unreadable, mut duplicates) = (Vec::new(), Vec::new());
    let mut stored: BTreeMap<Storage, BTreeMap<Split, usize>> = BTreeMap::new();
    let mut seen: HashMap<blake3::Hash, (Split, usize, Vec<usize>)> = HashMap::new();
    for split in Split::ALL {
        let read = |index| {
            let image = dataset.image(split, index);
            // An image whose bytes cannot be read is reported with its pixels.
            let storage = dataset.storage(split, index).unwrap_or_default();
            let sample = image.and_then(|image| Ok((hash(&image), dataset.labels(split, index)?)));
            (sample, storage)
        };
        // Images are decoded in parallel and compared in order, so that the report does not depend
        // on threads. Only hashes are kept: a whole data set does not fit in memory.
        let all: Vec<_> = (0..dataset.len(split)).into_par_iter().map(read).collect();
        for (index, (sample, storage)) in all.into_iter().enumerate() {
            for property in storage {
                *stored
                    .entry(property)
                    .or_default()
                    .entry(split)
                    .or_default() += 1;
            }
            let (hash, labels) = match sample {
                Ok(sample) => sample,
                Err(e) => {
                    unreadable.push(format!("{split} image {index}: {e}"));
                    continue;
                }
            };
            let first = seen
                .entry(hash)
                .or_insert_with(|| (split, index, labels.clone()));
            // Repeated images within a split and class are common and harm no result. Across splits
            // they leak test images into training, and with two labels one label is wrong.
            if (first.0, &first.2) != (split, &labels) {
                let say = |(split, index, labels): &(Split, usize, Vec<usize>)| {
                    format!("{split} image {index} ({})", named(dataset, labels))
                };
                let this = (split, index, labels);
                duplicates.push(format!("{} is {}", say(&this), say(first)));
            }
        }
    }
    let stored = stored.into_iter().map(|(property, counts)| {
        let [train, validation, test] = Split::ALL.map(|split| counts.get(&split).copied());
        Stored {
            property,
            train: train.unwrap_or_default(),
            validation: validation.unwrap_or_default(),
            test: test.unwrap_or_default(),
        }
    });
    Images {
        storage: stored.collect(),
        unreadable,
        duplicates,
    }
}

/// The names of the labels of an image.
pub fn named(dataset: &dyn Dataset, labels: &[usize]) -> String {
    let name = |label: &usize| dataset.classes().get(*label).map_or("?", String::as_str);
    let names: Vec<&str> = labels.iter().map(name).collect();
    match names.is_empty() {
        true => "no class".to_owned(),
        false => names.join(", "),
    }
}

fn hash(image: &Image) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    // With the number of pixels the width also fixes the height.
    hasher.update(&(image.width as u64).to_le_bytes());
    hasher.update(&image.rgb);
    hasher.finalize()
}

/// Prints what was found, for people, on stdout.
pub fn print(found: &Found) {
    if let Some(title) = &found.title {
        println!("{title}");
    }
    let sizes = found.splits.values().sum::<usize>();
    let many = match found.multi_label {
        true => ", several labels per image",
        false => "",
    };
    println!("{} classes, {sizes} images{many}", found.classes);
    histogram(&found.histogram, found.multi_label);
    let list = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            println!("{title}: {}", lines.len());
            lines
                .iter()
                .take(LISTED)
                .for_each(|line| println!("  {line}"));
            if lines.len() > LISTED {
                println!("  and {} more", lines.len() - LISTED);
            }
        }
    };
    list("groups", &found.groups);
    list("remarks", &found.remarks);
    for Stored {
        property: Storage { what, done },
        train,
        validation,
        test,
    } in &found.storage
    {
        println!("{what} images: {train} train, {validation} validation, {test} test; {done}");
    }
    list("differences from what is known", &found.differences);
    list("cannot be read", &found.unreadable);
    list(
        "equal images in two splits or with two labels",
        &found.duplicates,
    );
}

/// Prints the split table with a bar for each class; of many classes only the largest and the smallest.
/// The last line is that of all images, or of all labels where images have `many`.
fn histogram(rows: &[Histogram], many: bool) {
    let total = |row: &Histogram| row.train + row.validation + row.test;
    let most = rows.iter().map(total).max().unwrap_or(0).max(1);
    let width = rows.iter().map(|row| row.class.chars().count()).max();
    let width = width.unwrap_or(0).clamp(5, 28);
    println!(
        "{:<width$} {:>8} {:>10} {:>8}",
        "class", "train", "validation", "test"
    );
    let mut sorted: Vec<&Histogram> = rows.iter().collect();
    if rows.len() > 2 * LISTED {
        sorted.sort_by_key(|row| std::cmp::Reverse(total(row)));
    }
    for (place, row) in sorted.iter().enumerate() {
        if rows.len() > 2 * LISTED && (LISTED..rows.len() - LISTED).contains(&place) {
            if place == LISTED {
                println!("  .. {} classes between ..", rows.len() - 2 * LISTED);
            }
            continue;
        }
        let bar = "#".repeat((total(row) * 24).div_ceil(most));
        let Histogram {
            class,
            train,
            validation,
            test,
        } = row;
        let class: String = class.chars().take(width).collect();
        println!("{class:<width$} {train:>8} {validation:>10} {test:>8}  {bar}");
    }
    let sum = |of: fn(&Histogram) -> usize| rows.iter().map(of).sum::<usize>();
    let (train, validation, test) = (
        sum(|row| row.train),
        sum(|row| row.validation),
        sum(|row| row.test),
    );
    let all = if many { "labels" } else { "all" };
    println!("{all:<width$} {train:>8} {validation:>10} {test:>8}");
}
