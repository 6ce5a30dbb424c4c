//! A training step: its random numbers, and the buffers that it updates.

use std::cell::RefCell;
use std::ops::Range;

use burn::tensor::{Tensor, TensorData};

use crate::channels::like;
use crate::random::Generator;
use crate::site::{Site, SiteKind};

/// A training step: the seed of its random numbers and the buffers that it updates.
///
/// A step is a pure function of model, batch and step number; updates are returned, not written.
#[derive(Debug)]
pub struct Step {
    key: Key,
    // A forward pass has only `&Step`, and runs on one thread.
    updates: RefCell<Vec<(String, Tensor<1>)>>,
    batch_statistics: bool,
    drop_path: DropPath,
}

/// Drop path, or stochastic depth (Huang et al. 2016): for each image, a branch is left out of the residual sum
/// with a probability that grows linearly from 0 in the first block to `largest` in the last one.
#[derive(Clone, Copy, Debug, Default)]
struct DropPath {
    largest: f64,
    /// The number of blocks.
    depth: usize,
}

/// The values that determine the random numbers of a step.
#[derive(Clone, Copy, Debug)]
struct Key {
    seed: u64,
    number: u64,
    part: usize,
    /// None for a whole batch.
    shard: Option<Shard>,
}

/// The place of some images among those of a batch.
#[derive(Clone, Copy, Debug)]
struct Shard {
    first: usize,
    images: usize,
    of: usize,
}

impl Shard {
    /// The elements of a tensor with `own` of them for these images, among those of the whole batch.
    fn elements(self, own: usize) -> Range<usize> {
        let each = own / self.images;
        self.first * each..(self.first + self.images) * each
    }
}

impl Key {
    /// A mask for the `own` elements that these images have, cut from that of the whole batch.
    fn mask(self, path: &str, own: usize, p: f64) -> Vec<f32> {
        // It is drawn on the CPU, so that it is the same on every device and for every number of threads.
        let mut generator = Generator::new(self.seed, path);
        match self.shard {
            None => generator.dropout_mask(own, p),
            Some(shard) => {
                let all = own / shard.images * shard.of;
                generator.dropout_mask(all, p)[shard.elements(own)].to_vec()
            }
        }
    }
}

impl Step {
    /// Step `number` of a run with `seed`, accumulation part `part`; `batch_statistics` for tuned
    /// BatchNorm layers.
    pub fn new(seed: u64, number: u64, part: usize, batch_statistics: bool) -> Self {
        Self {
            key: Key {
                seed,
                number,
                part,
                shard: None,
            },
            updates: RefCell::default(),
            batch_statistics,
            drop_path: DropPath::default(),
        }
    }

    /// The same step with drop path: the branches of block `l` of `depth` are dropped with the probability
    /// `largest * (l - 1) / (depth - 1)`, as in timm.
    pub fn with_drop_path(mut self, largest: f64, depth: usize) -> Self {
        self.drop_path = DropPath { largest, depth };
        self
    }

    /// The probability with which an image does without a site; 0 for a site that is not a branch.
    pub fn drop_path(&self, site: &Site) -> f64 {
        let DropPath { largest, depth } = self.drop_path;
        match site.kind {
            SiteKind::Branch { .. } if depth > 1 && site.block <= depth => {
                largest * site.block.saturating_sub(1) as f64 / (depth - 1) as f64
            }
            _ => 0.0,
        }
    }

    /// The factor of the branch `site` for each of `images` images: 0 where it is dropped, else one over the
    /// probability to be kept. It is a function of seed, step and site.
    pub fn kept(&self, site: &Site, images: usize) -> Vec<f32> {
        let Key { number, part, .. } = self.key;
        let path = format!("drop-path/{number}/{part}/{}", site.name);
        self.key.mask(&path, images, self.drop_path(site))
    }

    /// The same step for the images `rows` alone of a batch of `of`: what is drawn for them is what would be
    /// drawn in the whole batch.
    pub fn on_rows(mut self, rows: Range<usize>, of: usize) -> Self {
        self.key.shard = Some(Shard {
            first: rows.start,
            images: rows.len(),
            of,
        });
        self
    }

    /// The buffers' new values by canonical name, each `[c]`, once the forward pass has run.
    pub fn into_updates(self) -> Vec<(String, Tensor<1>)> {
        self.updates.into_inner()
    }

    /// Whether tuned BatchNorm layers use and update batch statistics.
    pub(crate) fn batch_statistics(&self) -> bool {
        self.batch_statistics
    }

    /// Records the new value `[c]` of a buffer.
    pub(crate) fn update(&self, name: String, value: Tensor<1>) {
        self.updates.borrow_mut().push((name, value));
    }
}

/// The random numbers of one adapter in one forward pass, for dropout.
///
/// It is a plain value: the seed and the number of the step, if there is one, and the place of the
/// adapter.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    /// None outside of training, when nothing is dropped.
    key: Option<Key>,
    /// The place of the adapter: two adapters at one site draw different masks.
    owner: usize,
}

impl Draws {
    /// The random numbers of the adapter at place `owner`; without a step nothing is drawn.
    pub fn new(step: Option<&Step>, owner: usize) -> Self {
        let key = step.map(|step| step.key);
        Self { key, owner }
    }

    /// The adapter's place in the list.
    pub(crate) fn owner(&self) -> usize {
        self.owner
    }

    /// Whether dropout with probability `p` drops anything: only while training.
    pub fn drops(&self, p: f64) -> bool {
        p > 0.0 && self.key.is_some()
    }

    /// Zeroes entries with probability `p` and scales the rest by `1/(1-p)`, while training. The
    /// mask is a function of seed, step, the adapter's place and `name`.
    ///
    /// # Shapes
    /// Any shape whose first axis goes image by image; the result has the same.
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, p: f64, name: &str) -> Tensor<D> {
        let Some(key) = self.key.filter(|_| p > 0.0) else {
            return x;
        };
        let Key { number, part, .. } = key;
        let path = format!("dropout/{number}/{part}/{}/{name}", self.owner);
        let shape = x.shape();
        let mask = key.mask(&path, shape.num_elements(), p);
        let mask = Tensor::from_data(TensorData::new(mask, shape), &x.device());
        x.clone() * like(mask, &x)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_masks_of_parts_make_up_that_of_the_batch() {
        let draw = |step: Step, images: usize| -> Vec<f32> {
            let x = Tensor::<3>::ones([images * 2, 3, 5], &Device::flex());
            let dropped = Draws::new(Some(&step), 0).dropout(x, 0.5, "blocks.0");
            dropped.into_data().iter().collect()
        };
        let step = || Step::new(1, 2, 0, false);
        let whole = draw(step(), 5);
        let parts = [0..2, 2..3, 3..5].map(|rows| {
            let images = rows.len();
            draw(step().on_rows(rows, 5), images)
        });
        assert_eq!(parts.concat(), whole);
        assert!(whole.contains(&0.0) && whole.contains(&2.0));
    }

    #[test]
    fn paths_are_dropped_more_often_in_later_blocks_and_alike_in_parts() {
        let branch = |block| {
            let kind = SiteKind::Branch {
                branch: crate::site::Branch::Mlp,
                width: 4,
            };
            Site::new(format!("blocks.{}.mlp", block - 1), block, kind)
        };
        let step = || Step::new(1, 2, 0, false).with_drop_path(0.4, 5);
        let rates = [1, 2, 3, 5].map(|block| step().drop_path(&branch(block)));
        assert_eq!(rates, [0.0, 0.1, 0.2, 0.4]);
        let norm = Site::new("norm", 5, SiteKind::Norm { channels: 4 });
        assert_eq!(step().drop_path(&norm), 0.0);
        let whole = step().kept(&branch(5), 400);
        let dropped = whole.iter().filter(|kept| **kept == 0.0).count();
        assert!((120..200).contains(&dropped), "{dropped}");
        let kept = |factor: &f32| *factor == 0.0 || (factor * 0.6 - 1.0).abs() < 1e-6;
        assert!(whole.iter().all(kept));
        let parts = [0..150, 150..400].map(|rows| {
            let images = rows.len();
            step().on_rows(rows, 400).kept(&branch(5), images)
        });
        assert_eq!(parts.concat(), whole);
        assert!(
            step()
                .kept(&branch(1), 9)
                .iter()
                .all(|factor| *factor == 1.0)
        );
    }
}
