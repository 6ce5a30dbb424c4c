//! Two finished runs on the same images, from the `predictions.csv` of each.

use std::collections::BTreeMap;
use std::path::Path;

use peft_core::Split;

use super::statistics::intervals::Difference;
use super::statistics::paired::{Discordant, accuracy_difference, discordant};
use crate::exit::{Failure, config_error};

/// The file of a run folder.
const FILE: &str = "predictions.csv";

/// Two runs compared image by image.
#[derive(Debug)]
pub struct Paired {
    /// Images that both saw.
    pub images: usize,
    /// The share of images on which each is right.
    pub accuracy: [f64; 2],
    /// The images on which one is right.
    pub discordant: Discordant,
    /// The first less the second; none for fewer than two images.
    pub difference: Option<Difference>,
}

/// The label and the prediction of each image of a split.
type Predictions = BTreeMap<String, [String; 2]>;

/// Compares the predictions of two runs on a split.
///
/// # Errors
/// If a file cannot be read, or the runs did not see the same images with the same labels.
pub fn paired(runs: [&Path; 2], split: Split) -> Result<Paired, Failure> {
    let [first, second] = runs.map(|run| read(run, split));
    joined([&first?, &second?], runs)
}

fn joined([first, second]: [&Predictions; 2], runs: [&Path; 2]) -> Result<Paired, Failure> {
    let lacking =
        |a: &Predictions, b: &Predictions| a.keys().find(|image| !b.contains_key(*image)).cloned();
    for (a, b, run) in [(first, second, runs[1]), (second, first, runs[0])] {
        if let Some(image) = lacking(a, b) {
            return Err(config_error(format!(
                "--paired: {} has no prediction of {image}; expected runs on the same images",
                run.display()
            )));
        }
    }
    let mut right = Vec::with_capacity(first.len());
    for (image, [label, prediction]) in first {
        let [other_label, other] = &second[image];
        if label != other_label {
            return Err(config_error(format!(
                "--paired: {image} is {label} in {}, but {other_label} in {}",
                runs[0].display(),
                runs[1].display()
            )));
        }
        right.push([prediction == label, other == label]);
    }
    let share =
        |which: usize| right.iter().filter(|own| own[which]).count() as f64 / right.len() as f64;
    Ok(Paired {
        images: right.len(),
        accuracy: [share(0), share(1)],
        discordant: discordant(&right),
        difference: accuracy_difference(&right),
    })
}

fn read(run: &Path, split: Split) -> Result<Predictions, Failure> {
    let path = run.join(FILE);
    let at =
        |e: &dyn std::fmt::Display| config_error(format_args!("--paired: {}: {e}", path.display()));
    let mut file = csv::Reader::from_path(&path).map_err(|e| at(&e))?;
    if file.headers().map_err(|e| at(&e))?.get(2) == Some("labels") {
        return Err(at(
            &"expected one label per image, as McNemar's test needs it; got several",
        ));
    }
    let mut found = Predictions::new();
    let wanted = split.to_string();
    for row in file.records() {
        let row = row.map_err(|e| at(&e))?;
        let (Some(of), Some(image), Some(label), Some(prediction)) =
            (row.get(0), row.get(1), row.get(2), row.get(3))
        else {
            return Err(at(
                &"expected the columns split, image, label and prediction",
            ));
        };
        if of == wanted {
            let own = [label, prediction].map(str::to_owned);
            if found.insert(image.to_owned(), own).is_some() {
                return Err(at(&format!("two images of {wanted} are called {image}")));
            }
        }
    }
    match found.is_empty() {
        true => Err(at(&format!("no image of the {wanted} split"))),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rows: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("split,image,label,prediction,probability\n{rows}");
        std::fs::write(folder.path().join(FILE), text).unwrap();
        folder
    }

    #[test]
    fn images_are_joined_by_name_and_refused_if_they_differ() {
        let a = run("validation,v,x,x,1\ntest,1,x,x,1\ntest,2,y,x,1\ntest,3,y,y,1\n");
        let b = run("test,3,y,x,1\ntest,1,x,x,1\ntest,2,y,y,1\n");
        let found = paired([a.path(), b.path()], Split::Test).unwrap();
        assert_eq!((found.images, found.accuracy), (3, [2.0 / 3.0; 2]));
        assert_eq!((found.discordant.first, found.discordant.second), (1, 1));
        let message = |other: &tempfile::TempDir, split| {
            let failed = paired([a.path(), other.path()], split).unwrap_err();
            format!("{:#}", failed.error)
        };
        assert!(message(&run("test,1,x,x,1\n"), Split::Test).contains("no prediction of 2"));
        let relabelled = run("test,1,y,x,1\ntest,2,y,x,1\ntest,3,y,y,1\n");
        assert!(message(&relabelled, Split::Test).contains("1 is x in"));
        let many = tempfile::tempdir().unwrap();
        let text = "split,image,labels,predictions\ntest,1,x|y,x\n";
        std::fs::write(many.path().join(FILE), text).unwrap();
        assert!(message(&many, Split::Test).contains("expected one label per image"));
        assert!(message(&b, Split::Validation).contains("no image of the validation split"));
    }
}
