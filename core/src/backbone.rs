//! The pretrained feature extractor: blocks, indexed boundaries, named sites.

use std::fmt::Debug;
use std::ops::Range;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use serde::Serialize;

use crate::activation::{Activation, BoundaryShape};
use crate::error::{Error, Result, nearest};
use crate::hooks::Hooks;
use crate::layout::Layout;
use crate::params::Tensors;
use crate::plug::{ErasedModule, Plug};
use crate::random::{Distribution, Generator};
use crate::site::{Branch, Site, SiteKind};

pub use crate::input::{CropMode, InputSpec, Interpolation};
pub use crate::source::{HasSource, Source};

/// An index of a cut: boundaries `0..=L+1`, then [`BackboneSpec::features_cut`].
pub type Cut = usize;

/// A frozen feature extractor, cut into `L` blocks.
pub trait Backbone: ErasedModule + dyn_clone::DynClone {
    /// Boundaries, sites and sizes, known before any forward.
    fn spec(&self) -> &BackboneSpec;

    /// Runs the span from cut `span.start` to cut `span.end`, so that any part can run alone.
    ///
    /// The hooks at boundary `l` act when the span starts at or passes `l`, not when it ends
    /// there: running `0..l` and then `l..end` acts once.
    ///
    /// # Shapes
    /// `x` and the result have the shapes of `spec().boundaries` at those cuts with the batch in
    /// front; a span that ends at [`BackboneSpec::features_cut`] gives `[b, features]`.
    fn forward(&self, x: Activation, span: Range<Cut>, hooks: &Hooks) -> Activation;

    /// Spellings of other libraries than timm and torchvision.
    fn layouts(&self) -> &'static [Layout] {
        &[]
    }

    /// Takes over what the library of that layout does otherwise with the same weights, once they are
    /// loaded: another epsilon in its norms, say.
    fn adopt(&mut self, layout: &str) {
        let _ = layout;
    }

    /// Why a checkpoint with a tensor of this name cannot be one of this backbone, where more is to
    /// be said than that nothing takes it.
    fn why_not(&self, tensor: &str) -> Option<&'static str> {
        let _ = tensor;
        None
    }

    /// A checkpoint's value of the parameter `name`, made for another resolution, at this one; none if
    /// it does not depend on the resolution.
    fn resized(&self, name: &str, value: TensorData) -> Option<TensorData> {
        let _ = (name, value);
        None
    }

    /// Parameters with which the backbone itself adds `delta` (batch 1) at a boundary: a prompt
    /// folded into position embeddings or into a bias. None where nothing does that exactly.
    fn absorb(&self, boundary: Cut, delta: &Activation) -> Option<Tensors> {
        let _ = (boundary, delta);
        None
    }
}

dyn_clone::clone_trait_object!(Backbone);

/// Runs a span cut by cut: the hooks at each boundary that it passes, then `block(cut, x)`, which
/// leads from `cut` to `cut + 1` (0 is the stem, `L + 1` the last norm and pooling).
pub fn run_span(
    x: Activation,
    span: Range<Cut>,
    hooks: &Hooks,
    block: impl Fn(Cut, Activation) -> Activation,
) -> Activation {
    span.fold(x, |x, cut| block(cut, hooks.at_boundary(cut, x)))
}

/// A backbone in a box that is a Burn module.
pub type BoxedBackbone = Plug<dyn Backbone>;

/// What is known of a backbone before any forward.
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
    /// The images that it takes.
    pub input: InputSpec,
    /// Width of the features that the head sees.
    pub features: usize,
    /// The checkpoint's name for its own head, for example `head` or `fc`.
    pub head_name: &'static str,
}

/// One boundary.
#[derive(Clone, Debug, Serialize)]
pub struct BoundarySpec {
    /// Its index, `0..=L+1`.
    pub index: usize,
    /// What lies there, for example `input of blocks.2`.
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
    /// The boundaries of a backbone whose blocks are called `block_names` and whose block inputs
    /// have `shapes[0..L]`, the last output `shapes[L]`.
    pub fn boundaries(
        image: BoundaryShape,
        block_names: &[String],
        shapes: &[BoundaryShape],
    ) -> Vec<BoundarySpec> {
        let inputs = block_names.iter().map(|name| format!("input of {name}"));
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

    /// The cut after the last norm and pooling: what the head sees.
    pub fn features_cut(&self) -> Cut {
        self.depth + 2
    }

    /// The boundary that `index` means; negative counts blocks from the end, `-1` is the input of
    /// the last block.
    ///
    /// # Errors
    /// [`Error::Boundary`] with the range.
    pub fn boundary(&self, index: i64) -> Result<&BoundarySpec> {
        let depth = self.depth as i64;
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

    /// The site of that name.
    pub fn site(&self, name: &str) -> Option<&Site> {
        self.sites.iter().find(|site| site.name == name)
    }

    /// Whether extra tokens can join at a boundary: at the input of a block with global attention.
    pub fn takes_extras(&self, boundary: Cut) -> bool {
        let shape = self.boundaries.get(boundary).map(|boundary| boundary.shape);
        boundary <= self.depth && matches!(shape, Some(BoundaryShape::Tokens { .. }))
    }

    /// Why extra tokens cannot join there.
    pub fn why_no_extras(&self, boundary: Cut) -> String {
        match self.boundaries.get(boundary) {
            Some(at) if boundary > self.depth => format!("no block reads what joins at {at}"),
            Some(at) => format!(
                "extra tokens need a sequence under global attention; at {at} it has a {}",
                at.shape
            ),
            None => format!("it has no boundary {boundary}"),
        }
    }

    /// How prompt tokens of `width` start: `U(+-sqrt(6 / (3 P^2 + D)))` with `P` the patch size (Jia
    /// et al. 2022): Xavier's bound for the first convolution.
    pub fn prompt_distribution(&self, width: usize) -> Distribution {
        let patch = self.sites.iter().find_map(|site| match site.kind {
            SiteKind::Conv {
                inputs,
                kernel: [kh, kw],
                ..
            } => Some(inputs * kh * kw),
            _ => None,
        });
        let fans = patch.unwrap_or(0) + width;
        Distribution::Uniform((6.0 / fans as f32).sqrt())
    }

    /// The branch that a site lies in, by its name: `blocks.0.attn.qkv` lies in `blocks.0.attn`.
    pub fn branch_of(&self, site: &Site) -> Option<Branch> {
        self.sites.iter().find_map(|outer| match outer.kind {
            SiteKind::Branch { branch, .. } => {
                let inner = site.name.strip_prefix(&outer.name)?;
                inner.starts_with('.').then_some(branch)
            }
            _ => None,
        })
    }

    /// The block of a parameter by its name: that of its site, or of the nearest module around it that
    /// has sites; 0 for what belongs to none (class token, position embedding), which is never too
    /// late.
    pub fn block_of(&self, parameter: &str) -> usize {
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

/// How a backbone is configured and built; the `backbone:` of a YAML.
///
/// A family declares its configuration with [`backbone_config!`](crate::backbone_config), which
/// gives it the fields that all families share and implements [`HasSource`].
#[typetag::serde(tag = "name")]
pub trait BackboneConfig: HasSource + Debug + Send + Sync + dyn_clone::DynClone {
    /// Builds it with initial values from `init`; weights are loaded afterwards.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that do not fit each other.
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>>;

    /// How images become its input: the configuration's [`Source`] over the family's defaults.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that do not fit each other.
    fn input(&self) -> Result<InputSpec>;
}

dyn_clone::clone_trait_object!(BackboneConfig);

/// The row of that name in a backbone's table of variants. A tag, as in timm's
/// `resnet50.a1_in1k`, names weights of that variant and is left aside.
///
/// # Errors
/// [`Error::Config`] for the field `variant`, with the nearest name and all of them.
pub fn variant<'a, T>(table: &'a [(&'static str, T)], name: &str) -> Result<&'a T> {
    let names = || table.iter().map(|(name, _)| *name);
    let bare = name.split_once('.').map_or(name, |(bare, _)| bare);
    let row = table.iter().find(|(n, _)| *n == bare);
    row.map(|(_, row)| row).ok_or_else(|| {
        let hint = nearest(bare, names())
            .map_or(".".to_owned(), |name| format!("; did you mean {name:?}?"));
        let all = names().collect::<Vec<_>>().join(", ");
        let message = format!("unknown variant {name:?}{hint} There are: {all}");
        Error::config("variant", message)
    })
}

/// Device and seeded source of initial values; every tensor's values depend on the seed and its
/// own name only.
#[derive(Clone, Debug)]
pub struct Init {
    device: Device,
    seed: Option<u64>,
    scope: String,
}

impl Init {
    /// Random values from `seed`, on `device` without autodiff.
    pub fn seeded(device: &Device, seed: u64) -> Self {
        Self {
            device: device.clone(),
            seed: Some(seed),
            scope: String::new(),
        }
    }

    /// All zeros: for a model whose weights are loaded next.
    pub fn empty(device: &Device) -> Self {
        Self {
            device: device.clone(),
            seed: None,
            scope: String::new(),
        }
    }

    /// The same source for parameters of another owner: equal names there get other values.
    pub fn scoped(&self, scope: impl Into<String>) -> Self {
        Self {
            scope: scope.into(),
            ..self.clone()
        }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A tensor of initial values for the parameter called `name`.
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        distribution: Distribution,
    ) -> Tensor<D> {
        let zeros = || Tensor::zeros(shape, &self.device);
        let Some(seed) = self.seed else {
            return zeros();
        };
        let mut generator = Generator::new(seed, &format!("{}{name}", self.scope));
        let count = shape.iter().product();
        let mut draw = |f: &dyn Fn(&mut Generator) -> f32| {
            let values: Vec<f32> = (0..count).map(|_| f(&mut generator)).collect();
            Tensor::from_data(TensorData::new(values, Shape::from(shape)), &self.device)
        };
        match distribution {
            Distribution::Zeros => zeros(),
            Distribution::Ones => Tensor::ones(shape, &self.device),
            Distribution::Uniform(bound) => draw(&|g| g.uniform(-bound, bound)),
            Distribution::TruncatedNormal(std) => draw(&|g| g.truncated_normal(std)),
            Distribution::Normal(mean, std) => draw(&|g| mean + std * g.normal()),
        }
    }

    /// The same as a parameter.
    pub fn param<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        distribution: Distribution,
    ) -> Param<Tensor<D>> {
        match self.seed {
            Some(_) => Param::from_tensor(self.tensor(name, shape, distribution)),
            // No memory is taken until it is asked for or written.
            None => {
                let zeros = move |device: &Device, _| Tensor::zeros(shape, device);
                let device = self.device.clone();
                Param::uninitialized(ParamId::new(), zeros, device, true, shape.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> BackboneSpec {
        let tokens = BoundaryShape::Tokens { count: 5, width: 8 };
        let names: Vec<_> = (0..4).map(|i| format!("blocks.{i}")).collect();
        BackboneSpec {
            name: "vit".into(),
            depth: 4,
            boundaries: BackboneSpec::boundaries(tokens, &names, &[tokens; 5]),
            sites: vec![],
            input: InputSpec {
                size: 8,
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
    fn a_variant_may_carry_the_tag_of_its_weights() {
        let table = [("resnet18", 18), ("resnet50", 50)];
        assert_eq!(*variant(&table, "resnet50").unwrap(), 50);
        assert_eq!(*variant(&table, "resnet50.a1_in1k").unwrap(), 50);
        let error = variant(&table, "resnet5.a1_in1k").unwrap_err().to_string();
        assert!(
            error.contains("\"resnet5.a1_in1k\"; did you mean \"resnet50\"?"),
            "{error}"
        );
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
