//! Classes are joined by name. An index of a class means something only beside the list that it points
//! into, and the lists of two files may differ in order and in length.

use burn::tensor::TensorData;
use peft_core::checkpoint::CheckpointHead;
use peft_core::error::listed;
use peft_core::params::floats;

use crate::data::loader::Loader;

/// How many names a message lists.
const LISTED: usize = 6;

/// The row of a head for each class of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// Row `i` is class `i`, and there are no other rows.
    Same,
    /// Class `i` is row `rows[i]`.
    Rows(Vec<usize>),
    /// As [`Same`](Self::Same), but assumed: one of the two sides numbers its classes and the other names
    /// them.
    Assumed,
}

impl Join {
    /// Finds the classes of a data set among those of a head.
    ///
    /// # Errors
    /// The classes that the head lacks.
    pub fn by_name(head: &[String], data: &[String]) -> Result<Self, Vec<String>> {
        if head == data {
            return Ok(Self::Same);
        }
        let row = |class: &String| head.iter().position(|name| name == class);
        let missing: Vec<String> = data
            .iter()
            .filter(|class| row(class).is_none())
            .cloned()
            .collect();
        if missing.is_empty() {
            Ok(Self::Rows(data.iter().filter_map(row).collect()))
        } else if head.len() == data.len() && numbered(head) != numbered(data) {
            Ok(Self::Assumed)
        } else {
            Err(missing)
        }
    }

    /// The loader, with labels that are rows of the head.
    pub fn apply(self, loader: Loader) -> Loader {
        match self {
            Self::Same | Self::Assumed => loader,
            Self::Rows(rows) => loader.relabelled(rows),
        }
    }

    /// A sentence for people where the two lists differ, for example `the head's 3 classes are in another
    /// order than the data set's: they are joined by name`.
    pub fn remark(&self, head: usize) -> Option<String> {
        let rows = match self {
            Self::Same => return None,
            Self::Assumed => {
                return Some(
                    "the classes have names on one side and numbers on the other: they are joined in \
                     their order"
                        .to_owned(),
                );
            }
            Self::Rows(rows) => rows,
        };
        Some(if rows.len() == head {
            format!(
                "the head's {head} classes are in another order than the data set's: they are joined by \
                 name"
            )
        } else {
            format!(
                "the data set has {} of the head's {head} classes: they are joined by name",
                rows.len()
            )
        })
    }
}

/// Whether the classes are called 0, 1, 2, .., as those of a file without names are.
fn numbered(names: &[String]) -> bool {
    names
        .iter()
        .enumerate()
        .all(|(number, name)| *name == number.to_string())
}

/// What is wrong when a head lacks classes of a data set.
pub fn lacking(head: &[String], missing: &[String]) -> String {
    format!(
        "the head lacks {} of the data set's classes: {}; it has {}",
        missing.len(),
        listed(missing, LISTED),
        listed(head, LISTED)
    )
}

/// A checkpoint's head with one row for each class of a data set, in the data set's order.
pub fn reordered(head: &CheckpointHead, rows: &[usize]) -> CheckpointHead {
    CheckpointHead {
        weight: select(&head.weight, rows),
        bias: select(&head.bias, rows),
    }
}

/// Rows of a tensor: slices of its first dimension.
pub fn select(data: &TensorData, rows: &[usize]) -> TensorData {
    let mut shape = data.shape().to_vec();
    let width: usize = shape[1..].iter().product();
    let values = floats(data.clone());
    let selected = rows
        .iter()
        .flat_map(|row| &values[row * width..(row + 1) * width]);
    shape[0] = rows.len();
    TensorData::new(selected.copied().collect::<Vec<f32>>(), shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn classes_are_found_by_name_whatever_their_order() {
        let head = names(&["ant", "bee", "cat"]);
        for (data, expected, remark) in [
            (&["ant", "bee", "cat"][..], Ok(Join::Same), None),
            (
                &["cat", "ant", "bee"],
                Ok(Join::Rows(vec![2, 0, 1])),
                Some("another order"),
            ),
            (&["cat"], Ok(Join::Rows(vec![2])), Some("1 of the head's 3")),
            (&["cat", "Ant"], Err(names(&["Ant"])), None),
            (
                &["0", "1", "2"],
                Ok(Join::Assumed),
                Some("numbers on the other"),
            ),
            (&["0", "1"], Err(names(&["0", "1"])), None),
            (&["ant", "bee", "cat", "dog"], Err(names(&["dog"])), None),
        ] {
            let join = Join::by_name(&head, &names(data));
            assert_eq!(join, expected);
            let said = join.ok().and_then(|join| join.remark(head.len()));
            match remark {
                Some(part) => assert!(said.unwrap().contains(part)),
                None => assert_eq!(said, None),
            }
        }
        let message = lacking(&head, &names(&["dog"]));
        assert!(
            message.contains("1 of the data set's classes: dog; it has ant, bee, cat"),
            "{message}"
        );
    }

    #[test]
    fn rows_of_a_head_follow_their_classes() {
        let head = CheckpointHead {
            weight: TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2]),
            bias: TensorData::new(vec![7.0f32, 8.0, 9.0], [3]),
        };
        let head = reordered(&head, &[2, 0]);
        assert_eq!(floats(head.weight), [5.0, 6.0, 1.0, 2.0]);
        assert_eq!(floats(head.bias), [9.0, 7.0]);
    }
}
