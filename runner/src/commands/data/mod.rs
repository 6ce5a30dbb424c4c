//! `runner data`: what a data set holds, against what is known of it, and as a picture.

pub mod sheet;
pub mod time;

use std::collections::{BTreeMap, HashMap};

use peft_core::DatasetConfig;
use peft_core::data::{Dataset, Image, Split};
use peft_core::random::Generator;
use peft_datasets::Preprocess;
use rayon::prelude::*;
use serde::Serialize;

use crate::cli::{CheckArgs, DatasetArgs, Format, ShowDataArgs};
use crate::config::about::About;
use crate::config::experiment::Experiment;
use crate::exit::{Exit, Failure, config_error, failure};

/// Lines of a list that are shown.
const LISTED: usize = 12;

/// What a check found.
#[derive(Debug, Default, Serialize)]
struct Found {
    title: Option<String>,
    classes: usize,
    /// Images of each split.
    splits: BTreeMap<String, usize>,
    /// Of each class in each split.
    histogram: Vec<Histogram>,
    groups: Vec<String>,
    remarks: Vec<String>,
    /// What differs from what is known of the set.
    differences: Vec<String>,
    /// Images that cannot be read, with the reason.
    unreadable: Vec<String>,
    /// Equal images in two splits, or with two labels.
    duplicates: Vec<String>,
    /// Whether every image was read.
    read: bool,
}

/// A class and its images.
#[derive(Debug, Serialize)]
struct Histogram {
    class: String,
    train: usize,
    validation: usize,
    test: usize,
}

/// Checks a data set: counts and classes, and every image unless told otherwise.
///
/// # Errors
/// If it cannot be opened, or something is wrong with it, after everything was said.
pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let (config, about) = read(&args.which)?;
    let dataset = config.open().map_err(|e| unopened(&e, about.as_ref()))?;
    let found = found(&*dataset, about.as_ref(), !args.quick)?;
    match args.format {
        Format::Json => {
            let json = serde_json::to_string_pretty(&found);
            println!("{}", json.map_err(|e| failure(Exit::Unexpected, e))?);
        }
        Format::Text => print(&found),
    }
    let wrong = found.differences.len() + found.unreadable.len() + found.duplicates.len();
    match wrong {
        0 => Ok(()),
        n => Err(config_error(format!(
            "{}: {n} things are wrong",
            args.which.dataset
        ))),
    }
}

fn read(which: &DatasetArgs) -> Result<(Box<dyn DatasetConfig>, Option<About>), Failure> {
    let root = which
        .root
        .iter()
        .map(|root| format!("dataset.root={}", root.display()));
    let overrides: Vec<_> = which.set.iter().cloned().chain(root).collect();
    Experiment::read_dataset(&which.dataset, &overrides)
}

/// Prints the split table and paints a contact sheet: some images of a split, each as it is and as
/// the backbone sees it.
///
/// # Errors
/// If the data set cannot be opened, an image cannot be read, or the file cannot be written.
pub fn show_data(args: &ShowDataArgs) -> Result<(), Failure> {
    let (config, about) = read(&args.which)?;
    let dataset = config.open().map_err(|e| unopened(&e, about.as_ref()))?;
    print(&found(&*dataset, about.as_ref(), false)?);
    let backbone = Experiment::read_backbone(&args.backbone, &[])?;
    let input = config.input(backbone.input().map_err(config_error)?);
    let split = args.split.into();
    let mut order = Generator::new(args.seed, "contact sheet").permutation(dataset.len(split));
    order.truncate(args.images);
    let png = sheet::paint(&*dataset, split, &order, &Preprocess::new(&input))?;
    peft_core::files::write_atomically(&args.out, &png)?;
    println!(
        "{} of {split}, as {input}: {}",
        order.len(),
        args.out.display()
    );
    Ok(())
}

/// What is missing, and what there should be.
fn unopened(error: &peft_core::Error, about: Option<&About>) -> Failure {
    let known = about.map(|about| {
        let About {
            title,
            layout,
            source,
            terms,
            ..
        } = about;
        format!("\n{title} on disk:\n{layout}\nsource: {source}\nterms: {terms}")
    });
    config_error(format!("dataset: {error}{}", known.unwrap_or_default()))
}

fn found(dataset: &dyn Dataset, about: Option<&About>, read: bool) -> Result<Found, Failure> {
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
            let label = dataset.label(split, index).map_err(config_error)?;
            let Some(row) = histogram.get_mut(label) else {
                let message = format!("{split} image {index}: the label {label} is no class");
                return Err(config_error(message));
            };
            match split {
                Split::Train => row.train += 1,
                Split::Validation => row.validation += 1,
                Split::Test => row.test += 1,
            }
        }
    }
    let (unreadable, duplicates) = match read {
        true => images(dataset),
        false => (Vec::new(), Vec::new()),
    };
    Ok(Found {
        title: about.map(|about| about.title.clone()),
        classes: dataset.classes().len(),
        splits: Split::ALL
            .map(|split| (split.to_string(), dataset.len(split)))
            .into(),
        histogram,
        groups: dataset.groups().to_vec(),
        remarks: dataset.remarks(),
        differences: about.map_or(Vec::new(), |about| about.differences(dataset)),
        unreadable,
        duplicates,
        read,
    })
}

/// Reads every image: those that cannot be read, and equal ones in two splits or with two labels.
fn images(dataset: &dyn Dataset) -> (Vec<String>, Vec<String>) {
    let (mut unreadable, mut duplicates) = (Vec::new(), Vec::new());
    let mut seen: HashMap<blake3::Hash, (Split, usize, usize)> = HashMap::new();
    for split in Split::ALL {
        let read = |index| {
            let sample = dataset.sample(split, index);
            sample.map(|sample| (hash(&sample.image), sample.label))
        };
        let all: Vec<_> = (0..dataset.len(split)).into_par_iter().map(read).collect();
        for (index, sample) in all.into_iter().enumerate() {
            let (hash, label) = match sample {
                Ok(sample) => sample,
                Err(e) => {
                    unreadable.push(format!("{split} image {index}: {e}"));
                    continue;
                }
            };
            let first = *seen.entry(hash).or_insert((split, index, label));
            if (first.0, first.2) != (split, label) {
                let say = |(split, index, label): (Split, usize, usize)| {
                    format!("{split} image {index} ({})", dataset.classes()[label])
                };
                duplicates.push(format!("{} is {}", say((split, index, label)), say(first)));
            }
        }
    }
    (unreadable, duplicates)
}

fn hash(image: &Image) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(image.width as u64).to_le_bytes());
    hasher.update(&image.rgb);
    hasher.finalize()
}

fn print(found: &Found) {
    if let Some(title) = &found.title {
        println!("{title}");
    }
    let sizes = found.splits.values().sum::<usize>();
    println!("{} classes, {sizes} images", found.classes);
    histogram(&found.histogram);
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
    list("other than known", &found.differences);
    list("cannot be read", &found.unreadable);
    list(
        "equal images in two splits or with two labels",
        &found.duplicates,
    );
    if !found.read {
        println!("images were not read (--quick)");
    }
}

/// The split table with a bar for each class; of many classes the largest and the least.
fn histogram(rows: &[Histogram]) {
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
    println!("{:<width$} {train:>8} {validation:>10} {test:>8}", "all");
}
