//! Classes are joined by name. An index of a class means something only beside the list that it points
//! into, and the lists of two files may differ in order and in length.

use std::collections::HashMap;

use burn::tensor::TensorData;
use peft_core::checkpoint::CheckpointHead;
use peft_core::error::listed;
use peft_core::params::floats;

use crate::data::loader::Loader;

/// How many of the missing names, and of a head's own, a message lists.
const MISSING: usize = 40;
const OWN: usize = 12;

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
    /// A message with the classes that the head lacks, or with one that several of its rows are called.
    pub fn by_name(head: &[String], data: &[String]) -> Result<Self, String> {
        if head == data {
            return Ok(Self::Same);
        }
        let mut rows: HashMap<&str, Vec<usize>> = HashMap::new();
        for (row, name) in head.iter().enumerate() {
            rows.entry(name).or_default().push(row);
        }
        let (mut joined, mut missing) = (Vec::with_capacity(data.len()), Vec::new());
        for class in data {
            match rows.get(class.as_str()).map(Vec::as_slice) {
                None => missing.push(class),
                Some([row]) => joined.push(*row),
                Some(several) => {
                    return Err(format!(
                        "the rows {several:?} of the head are all called {class}: they cannot be joined \
                         with the data set's classes by name"
                    ));
                }
            }
        }
        if missing.is_empty() {
            Ok(Self::Rows(joined))
        } else if head.len() == data.len() && numbered(head) != numbered(data) {
            Ok(Self::Assumed)
        } else {
            Err(format!(
                "the head lacks {} of the data set's classes: {}; it has {}",
                missing.len(),
                listed(&missing, MISSING),
                listed(head, OWN)
            ))
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
            (
                &["cat", "Ant"],
                Err("the head lacks 1 of the data set's classes: Ant; it has ant, bee, cat"),
                None,
            ),
            (
                &["0", "1", "2"],
                Ok(Join::Assumed),
                Some("numbers on the other"),
            ),
            (
                &["0", "1"],
                Err("the head lacks 2 of the data set's classes: 0, 1; it has ant, bee, cat"),
                None,
            ),
            (
                &["ant", "bee", "cat", "dog"],
                Err("the head lacks 1 of the data set's classes: dog; it has ant, bee, cat"),
                None,
            ),
        ] {
            let join = Join::by_name(&head, &names(data));
            assert_eq!(join, expected.map_err(str::to_owned));
            let said = join.ok().and_then(|join| join.remark(head.len()));
            match remark {
                Some(part) => assert!(said.unwrap().contains(part)),
                None => assert_eq!(said, None),
            }
        }
    }

    #[test]
    fn a_name_of_several_rows_cannot_be_joined() {
        // ImageNet has two classes called crane.
        let head = names(&["crane", "dog", "crane"]);
        assert_eq!(Join::by_name(&head, &head), Ok(Join::Same));
        let only = Join::by_name(&head, &names(&["dog"]));
        assert_eq!(only, Ok(Join::Rows(vec![1])));
        for data in [&["crane"][..], &["dog", "crane"], &["crane", "dog", "owl"]] {
            let error = Join::by_name(&head, &names(data)).unwrap_err();
            assert!(error.starts_with("the rows [0, 2] of the head are all called crane"));
        }
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
