//! The description of a backbone that is known before any forward pass: boundaries, sites and sizes.

use serde::Serialize;

use crate::activation::BoundaryShape;
use crate::error::{Error, Result};
use crate::input::InputSpec;
use crate::random::Distribution;
use crate::site::{Branch, Site, SiteKind};

/// An index of a cut: boundaries `0..=L+1`, then [`BackboneSpec::features_cut`].
pub type Cut = usize;

/// The place of the boundary before a block, without the block's name.
const INPUT_OF: &str = "input of ";

/// The description of a backbone, known before any forward pass.
#[derive(Clone, Debug, Serialize)]
pub struct BackboneSpec {
    /// The variant or family, for messages.
    pub name: String,
    /// Number of blocks `L`.
    pub depth: usize,
    /// Boundaries `0..=L+1`.
    pub boundaries: Vec<BoundarySpec>,
    /// Named operations in the order of the forward pass.
    pub sites: Vec<Site>,
    /// The input images.
    pub input: InputSpec,
    /// Width of the features, which the head reads.
    pub features: usize,
    /// The checkpoint's name for its own head, for example `head` or `fc`.
    pub head_name: &'static str,
}

/// One boundary.
#[derive(Clone, Debug, Serialize)]
pub struct BoundarySpec {
    /// Its index, `0..=L+1`.
    pub index: usize,
    /// Its place, for example `input of blocks.2`.
    pub place: String,
    /// The activation's shape, without the batch.
    pub shape: BoundaryShape,
}

impl std::fmt::Display for BoundarySpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "boundary {} ({})", self.index, self.place)
    }
}

impl BackboneSpec {
    /// The boundaries of a backbone whose blocks are called `block_names`. `shapes[0..L]` are the shapes
    /// of the blocks' inputs, `shapes[L]` is that of the last block's output.
    pub fn boundaries(
        image: BoundaryShape,
        block_names: &[String],
        shapes: &[BoundaryShape],
    ) -> Vec<BoundarySpec> {
        let inputs = block_names.iter().map(|name| format!("{INPUT_OF}{name}"));
        let last = block_names.last().map(|name| format!("output of {name}"));
        std::iter::once("normalised image".to_owned())
            .chain(inputs)
            .chain(last)
            .zip(std::iter::once(&image).chain(shapes))
            .enumerate()
            .map(|(index, (place, &shape))| BoundarySpec {
                index,
                place,
                shape,
            })
            .collect()
    }

    /// The names of the blocks, in their order.
    pub fn block_names(&self) -> Vec<String> {
        let inputs = self
            .boundaries
            .iter()
            .filter_map(|at| at.place.strip_prefix(INPUT_OF));
        inputs.map(str::to_owned).collect()
    }

    /// The last boundary, `L+1`: the output of the last block.
    pub fn last_boundary(&self) -> Cut {
        self.depth + 1
    }

    /// The shape of the activation at a cut, without the batch.
    pub fn shape_at(&self, cut: Cut) -> BoundaryShape {
        match self.boundaries.get(cut) {
            Some(boundary) => boundary.shape,
            None => BoundaryShape::Features {
                width: self.features,
            },
        }
    }

    /// The cut after the last norm and pooling, whose value the head reads.
    pub fn features_cut(&self) -> Cut {
        self.depth + 2
    }

    /// The boundary with this index. Negative indices count blocks from the end: `-1` is the input of
    /// the last block.
    ///
    /// # Errors
    /// [`Error::Boundary`] with the valid range.
    pub fn boundary(&self, index: i64) -> Result<&BoundarySpec> {
        let depth = self.depth as i64;
        // -1 is the input of block L, so 0 is not reachable from the end: it has its own index.
        let absolute = if index < 0 { depth + 1 + index } else { index };
        let exists = absolute >= i64::from(index < 0) && absolute <= depth + 1;
        usize::try_from(absolute)
            .ok()
            .filter(|_| exists)
            .and_then(|absolute| self.boundaries.get(absolute))
            .ok_or_else(|| Error::Boundary {
                index,
                backbone: self.name.clone(),
                last: self.last_boundary(),
                depth: self.depth,
            })
    }

    /// The boundaries with these indices, in their order.
    ///
    /// # Errors
    /// See [`boundary`](Self::boundary); [`Error::Config`] for the field `boundaries` if two indices
    /// mean the same one.
    pub fn distinct_boundaries(&self, indices: &[i64]) -> Result<Vec<&BoundarySpec>> {
        let mut places: Vec<&BoundarySpec> = Vec::with_capacity(indices.len());
        for index in indices {
            let place = self.boundary(*index)?;
            // Compared after they are looked up, because 12 and -1 may be the same boundary.
            if places.iter().any(|other| other.index == place.index) {
                let message = format!("{place} is named twice");
                return Err(Error::config("boundaries", message));
            }
            places.push(place);
        }
        Ok(places)
    }

    /// The site of that name.
    pub fn site(&self, name: &str) -> Option<&Site> {
        self.sites.iter().find(|site| site.name == name)
    }

    /// Whether extra tokens can be appended at a boundary: at the input of a block with global attention.
    pub fn takes_extras(&self, boundary: Cut) -> bool {
        let shape = self.boundaries.get(boundary).map(|boundary| boundary.shape);
        // Windows have a fixed number of tokens, and nothing reads the output of the last block as
        // a sequence.
        boundary <= self.depth && matches!(shape, Some(BoundaryShape::Tokens { .. }))
    }

    /// Checks that `method` can append extra tokens at all these boundaries.
    ///
    /// # Errors
    /// [`Error::Unfit`] with the reason why it cannot.
    pub fn check_extras(&self, method: &str, places: &[&BoundarySpec]) -> Result<()> {
        let Some(at) = places.iter().find(|at| !self.takes_extras(at.index)) else {
            return Ok(());
        };
        let reason = if at.index > self.depth {
            format!("no block follows that could read tokens at {at}")
        } else {
            let shape = &at.shape;
            format!("extra tokens need a sequence under global attention; at {at} it has a {shape}")
        };
        Err(self.unfit(method, reason))
    }

    /// The error of a method that cannot adapt this backbone, with the reason.
    pub fn unfit(&self, method: &str, reason: impl Into<String>) -> Error {
        Error::Unfit {
            method: method.to_owned(),
            backbone: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// The distribution of initial prompt tokens of `width` `D`: `U(+-sqrt(6 / (3 P^2 + D)))` with `P`
    /// the patch size (Jia et al. 2022), which is Xavier's bound for the first convolution.
    pub fn prompt_distribution(&self, width: usize) -> Distribution {
        let patch = self.sites.iter().find_map(|site| match site.kind {
            SiteKind::Conv {
                inputs,
                kernel: [kh, kw],
                ..
            } => Some(inputs * kh * kw),
            _ => None,
        });
        // The fan-in and the fan-out of the patch embedding.
        let fans = patch.unwrap_or(0) + width;
        Distribution::Uniform((6.0 / fans as f32).sqrt())
    }

    /// The branch that contains a site, by its name: `blocks.0.attn.qkv` is in `blocks.0.attn`.
    pub fn branch_of(&self, site: &Site) -> Option<Branch> {
        self.sites.iter().find_map(|outer| match outer.kind {
            SiteKind::Branch { branch, .. } => {
                let inner = site.name.strip_prefix(&outer.name)?;
                inner.starts_with('.').then_some(branch)
            }
            _ => None,
        })
    }

    /// The block of a parameter, by its name: that of its site, or of the nearest enclosing module that
    /// has sites. It is 0 for a parameter without either, such as the class token or the position
    /// embedding, which is safe: the prefix then ends before everything that could use it.
    pub fn block_of(&self, parameter: &str) -> usize {
        // The search goes from the innermost module outwards.
        let around = parameter.match_indices('.').rev();
        let mut modules = around.map(|(end, _)| &parameter[..end]);
        let of = |module: &str| {
            let inside = |site: &&Site| {
                let rest = site.name.strip_prefix(module);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            self.sites.iter().find(inside).map(|site| site.block)
        };
        modules.find_map(of).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{CropMode, Interpolation};

    fn spec() -> BackboneSpec {
        let tokens = BoundaryShape::Tokens { count: 5, width: 8 };
        let names: Vec<_> = (0..4).map(|i| format!("blocks.{i}")).collect();
        BackboneSpec {
            name: "vit".into(),
            depth: 4,
            boundaries: BackboneSpec::boundaries(tokens, &names, &[tokens; 5]),
            sites: vec![],
            input: InputSpec {
                size: 8.into(),
                mean: [0.5; 3],
                std: [0.5; 3],
                interpolation: Interpolation::Bicubic,
                crop_pct: 1.0,
                crop_mode: CropMode::Center,
            },
            features: 8,
            head_name: "head",
        }
    }

    #[test]
    fn boundaries_count_from_both_ends_and_print_both_spellings() {
        let spec = spec();
        let at = |i| spec.boundary(i).unwrap().to_string();
        assert_eq!(at(0), "boundary 0 (normalised image)");
        assert_eq!(at(3), "boundary 3 (input of blocks.2)");
        assert_eq!(at(-1), "boundary 4 (input of blocks.3)");
        assert_eq!(at(-3), "boundary 2 (input of blocks.1)");
        assert_eq!(at(5), "boundary 5 (output of blocks.3)");
    }

    #[test]
    fn a_boundary_out_of_range_says_the_range() {
        for index in [6, -5, i64::MAX, i64::MIN] {
            let error = spec().boundary(index).unwrap_err().to_string();
            assert!(
                error.contains("0..=5") && error.contains("-4..=-1"),
                "{error}"
            );
        }
    }
}
