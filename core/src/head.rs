//! Heads, which turn features into logits.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::checkpoint::{Checkpoint, CheckpointHead};
use crate::error::{Error, Result, listed};
use crate::init::Init;
use crate::layers::{linear, wide};
use crate::mapped_head::MappedHead;
use crate::params::floats;
use crate::random::Distribution;

/// The head, which turns features into logits.
#[derive(Module, Debug)]
pub enum Head {
    /// A linear layer, trained in every row of a comparison.
    Linear(LinearHead),
    /// Similarity to embedded texts, frozen.
    Text(TextHead),
    /// The checkpoint's classes, which stand for others; frozen.
    Mapped(MappedHead),
}

impl Head {
    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::Linear(head) => head.weight.dims()[0],
            Self::Text(head) => head.weight.dims()[0],
            Self::Mapped(head) => head.classes(),
        }
    }

    /// Number of features that it reads.
    pub fn features(&self) -> usize {
        match self {
            Self::Linear(head) => head.weight.dims()[1],
            Self::Text(head) => head.weight.dims()[1],
            Self::Mapped(head) => head.weight.dims()[1],
        }
    }

    /// Whether it trains.
    pub fn trains(&self) -> bool {
        matches!(self, Self::Linear(_))
    }

    /// Logits in f32, whatever type the backbone computes in.
    ///
    /// # Shapes
    /// `[b, features] -> [b, classes]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Linear(head) => head.forward(features),
            Self::Text(head) => head.forward(features),
            Self::Mapped(head) => head.forward(features),
        }
    }
}

impl From<LinearHead> for Head {
    fn from(head: LinearHead) -> Self {
        Self::Linear(head)
    }
}

impl From<MappedHead> for Head {
    fn from(head: MappedHead) -> Self {
        Self::Mapped(head)
    }
}

impl From<TextHead> for Head {
    fn from(head: TextHead) -> Self {
        Self::Text(head)
    }
}

/// `logits = features W^T + b`.
#[derive(Module, Debug)]
pub struct LinearHead {
    /// `[classes, features]`.
    pub weight: Param<Tensor<2>>,
    /// `[classes]`.
    pub bias: Param<Tensor<1>>,
}

impl LinearHead {
    /// A new head: weights truncated normal with deviation 0.02 (timm's), bias zero.
    pub fn new(features: usize, classes: usize, init: &Init) -> Self {
        let normal = Distribution::TruncatedNormal(0.02);
        Self {
            weight: init.param("head.weight", [classes, features], normal),
            bias: init.param("head.bias", [classes], Distribution::Zeros),
        }
    }

    /// The head that came with a checkpoint.
    pub fn from_checkpoint(head: CheckpointHead, device: &Device) -> Self {
        Self {
            weight: Param::from_data(head.weight, device),
            bias: Param::from_data(head.bias, device),
        }
    }

    /// # Shapes
    /// `[b, features] -> [b, classes]`, in f32.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        linear(wide(features), self.weight.val(), Some(self.bias.val()))
    }
}

/// `logits = scale cos(features, text)` with one text per class: CLIP's zero-shot classifier
/// (Radford et al. 2021, Sec. 3.1).
#[derive(Module, Debug)]
pub struct TextHead {
    /// `[classes, features]`, each row of length 1.
    weight: Param<Tensor<2>>,
    scale: f64,
}

/// The metadata key under which a safetensors file of text embeddings holds the names of the classes:
/// a JSON list in the order of the rows.
pub const CLASSES: &str = "classes";

impl TextHead {
    /// Reads embeddings `[classes, features]` in the order of `classes`: by the names in the file's
    /// metadata ([`CLASSES`]), or row by row if there are none. `tensor` names the tensor; without it
    /// the file must hold a single one.
    ///
    /// # Errors
    /// [`Error::File`] if the file lacks the tensor or a class, or the shape is wrong.
    pub fn read(
        file: &Checkpoint,
        tensor: Option<&str>,
        (classes, features): (&[String], usize),
        scale: f64,
        device: &Device,
    ) -> Result<Self> {
        let at = |message: String| Error::file(file.path(), message);
        let names: Vec<_> = file.names().map(str::to_owned).collect();
        let name = match (tensor, &names[..]) {
            (Some(name), _) => name,
            (None, [only]) => only,
            (None, _) => {
                let names = listed(&names, 6);
                let message = format!("expected one tensor, or the name of one of {names}");
                return Err(at(message));
            }
        };
        let data = file.tensor(name)?;
        let shape = data.shape().to_vec();
        if data.dtype() != DType::F32 || shape.len() != 2 || shape[1] != features {
            let got = data.dtype();
            return Err(at(format!(
                "{name}: expected floats [classes, {features}], as wide as the features, got \
                 {got:?} {shape:?}"
            )));
        }
        let rows = rows(file, classes, shape[0]).map_err(at)?;
        let values = floats(data);
        let mut weight = Vec::with_capacity(classes.len() * features);
        for (row, class) in rows.into_iter().zip(classes) {
            let text = &values[row * features..(row + 1) * features];
            let length = text.iter().map(|x| x * x).sum::<f32>().sqrt();
            // A row without a direction would make every logit of its class NaN.
            if !(length.is_finite() && length > 0.0) {
                let message = format!("{name}: the embedding of {class:?} has the length {length}");
                return Err(at(message));
            }
            weight.extend(text.iter().map(|x| x / length));
        }
        let weight = TensorData::new(weight, [classes.len(), features]);
        Ok(Self {
            weight: Param::from_data(weight, device),
            scale,
        })
    }

    /// The factor of the cosines.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// # Shapes
    /// `[b, features] -> [b, classes]`, in f32.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let features = wide(features);
        let length = features.clone().square().sum_dim(1).sqrt();
        // Features of length 0 have no direction; their logits become 0 instead of NaN.
        let direction = features / length.clamp_min(1e-12); // [b, features]
        linear(direction, self.weight.val(), None) * self.scale
    }
}

/// The row of each class.
fn rows(file: &Checkpoint, classes: &[String], count: usize) -> Result<Vec<usize>, String> {
    let Some(text) = file.metadata().get(CLASSES) else {
        if count == classes.len() {
            return Ok((0..count).collect());
        }
        return Err(format!(
            "expected a row for each of {} classes, got {count}; with names in the metadata under \
             {CLASSES:?} there may be more",
            classes.len()
        ));
    };
    let names: Vec<String> = serde_json::from_str(text)
        .map_err(|e| format!("metadata {CLASSES:?}: expected a JSON list of names: {e}"))?;
    if names.len() != count {
        let given = names.len();
        return Err(format!(
            "metadata {CLASSES:?}: expected {count} names, got {given}"
        ));
    }
    let of = |class: &String| names.iter().position(|name| name == class);
    let count = |class: &String| names.iter().filter(|name| *name == class).count();
    // A list in the order of the rows needs no names; any other needs each of them once.
    if names == classes {
        return Ok((0..names.len()).collect());
    }
    if let Some(class) = classes.iter().find(|class| count(class) > 1) {
        let rows = count(class);
        return Err(format!(
            "{rows} embeddings are called {class:?}; expected one"
        ));
    }
    let missing: Vec<_> = classes
        .iter()
        .filter(|class| of(class).is_none())
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(classes.iter().filter_map(of).collect());
    }
    Err(format!(
        "no embedding of {}; there are {}",
        listed(&missing, 6),
        listed(&names, 12)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Tensors;
    use crate::weights;

    fn head(rows: &[[f32; 2]], names: Option<&str>, classes: &[&str]) -> Result<TextHead> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.safetensors");
        let values: Vec<f32> = rows.concat();
        let data = TensorData::new(values, [rows.len(), 2]);
        let metadata = names.map(|names| (CLASSES.to_owned(), names.to_owned()));
        let tensors = Tensors::from([("texts".to_owned(), data)]);
        weights::write(&path, &tensors, metadata.into_iter().collect()).unwrap();
        let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
        let file = Checkpoint::open(&path)?;
        TextHead::read(&file, None, (&classes, 2), 100.0, &Device::flex())
    }

    #[test]
    fn logits_are_scaled_cosines_in_the_order_of_the_classes() {
        let names = r#"["dog", "cat", "cow"]"#;
        let rows = [[0.0, 2.0], [3.0, 4.0], [1.0, 0.0]];
        let head = Head::from(head(&rows, Some(names), &["cat", "dog"]).unwrap());
        let features = Tensor::from_data([[5.0f32, 0.0], [0.0, 0.1]], &Device::flex());
        let logits = floats(head.forward(features).into_data());
        let expected = [60.0, 0.0, 80.0, 100.0];
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
        assert!(logits.iter().zip(&expected).all(close), "{logits:?}");
        assert_eq!((head.classes(), head.trains()), (2, false));
    }

    #[test]
    fn one_row_per_class_needs_no_names_and_misfits_are_reported() {
        let rows = [[0.0, 2.0], [3.0, 4.0]];
        assert!(head(&rows, None, &["a", "b"]).is_ok());
        for (names, classes, expected) in [
            (None, &["a"][..], "a row for each of 1 classes, got 2"),
            (Some(r#"["a", "b"]"#), &["c"], "no embedding of c"),
            (Some(r#"["a"]"#), &["a"], "expected 2 names, got 1"),
            (Some("a, b"), &["a"], "expected a JSON list"),
            (Some(r#"["a", "a"]"#), &["a"], "2 embeddings are called"),
        ] {
            let error = head(&rows, names, classes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = head(&[[0.0, 0.0]], None, &["a"]).unwrap_err().to_string();
        assert!(error.contains("\"a\" has the length 0"), "{error}");
    }
}
