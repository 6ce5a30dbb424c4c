//! The shapes in a checkpoint, by which a family recognises its backbones.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::file::Checkpoint;
use crate::image_size::ImageSize;
use crate::layout::Layout;

/// The shapes in a checkpoint by canonical name, as read under one layout.
pub struct Shapes<'a> {
    pub(super) file: &'a Checkpoint,
    pub(super) layout: Layout,
    pub(super) keys: BTreeMap<String, String>,
    /// Number of attention heads, if a file beside the checkpoint states it: shapes do not.
    pub num_heads: Option<usize>,
    /// The size of the images, if a file beside the checkpoint states it: at most the number of their
    /// patches can be seen.
    pub image_size: Option<ImageSize>,
    pub(super) unsure: RefCell<Vec<String>>,
}

impl Shapes<'_> {
    /// Says of the configuration that is recognised which of its facts shapes do not show, and what would
    /// decide.
    pub fn unsure(&self, remark: impl Into<String>) {
        self.unsure.borrow_mut().push(remark.into());
    }

    /// The shape of a parameter; a slice of a fused projection has a name of its own.
    pub fn get(&self, name: &str) -> Option<Vec<usize>> {
        let zeros = |name: &str| {
            let shape = self.file.shape(self.keys.get(name)?)?;
            Some(TensorData::zeros::<f32, _>(shape.to_vec()))
        };
        let data = zeros(name)?;
        Some(match self.layout.convert {
            None => data.shape().to_vec(),
            Some(convert) => convert(name, data, &zeros).shape().to_vec(),
        })
    }

    /// The name of the layout under which the names were read.
    pub fn layout(&self) -> &'static str {
        self.layout.name
    }

    /// Whether the file has a tensor of that name, as it stands there.
    pub fn in_file(&self, name: &str) -> bool {
        self.file.shape(name).is_some()
    }

    /// Whether there is a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.keys.contains_key(name)
    }

    /// How many parameters match `pattern` with `{}` = 0, 1, 2 and so on before one is missing.
    pub fn count(&self, pattern: &str) -> usize {
        let there = |i: &usize| self.has(&pattern.replace("{}", &i.to_string()));
        (0..).take_while(there).count()
    }
}
