//! Folding adapters into the weights, where that is exact.
//!
//! At a site the acts are folded in their order: a function of the weight replaces it, a low-rank path
//! adds its product, a scale multiplies rows (or columns, on the input), and a shift is added to the bias. At a
//! boundary a prompt that is added goes where the backbone can absorb it. Everything else is
//! refused by name, because a merged model must compute the same.

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor, TensorData};

use crate::acts::BoundaryAct;
use crate::backbone::BoxedBackbone;
use crate::error::{Error, Result};
use crate::hooks::{Act, Hooks};
use crate::params::{self, Tensors};

use crate::site::{Site, SiteKind, Slice};

/// Returns the backbone with all acts folded into its weights, without autodiff. Layers are folded on
/// the CPU in f32, whatever the model computes in, because a merged checkpoint must not depend on the
/// device: `on_cpu` are the same hooks there.
///
/// # Errors
/// [`Error::Unfoldable`] for the first act that has no exact fold.
pub(crate) fn fold(
    backbone: &BoxedBackbone,
    hooks: &Hooks,
    on_cpu: &Hooks,
) -> Result<BoxedBackbone> {
    let mut backbone = backbone.clone();
    let acting = |site: &&Site| hooks.acts_at(site);
    let sites: Vec<&Site> = backbone.spec().sites.iter().filter(acting).collect();
    let names = sites
        .iter()
        .flat_map(|site| parts(site).into_iter().chain(slice_biases(site)));
    let names: BTreeSet<String> = names.collect();
    // Reading walks over all parameters, so it is done once for all sites.
    let mut values = params::read(&backbone, |info| names.contains(&info.name));
    let mut folded = Tensors::new();
    for site in sites {
        let [weight, bias] = parts(site).map(|name| values.remove(&name));
        let bias = bias.or_else(|| joined_bias(site, &values));
        folded.extend(fold_site(site, [weight, bias], on_cpu.at_site(site))?);
    }
    // Sites come first, because a prompt is absorbed by parameters that a site may have changed.
    backbone = write(backbone, folded)?;
    for boundary in backbone.spec().boundaries.clone() {
        for (name, act, _) in hooks.boundary_acts(boundary.index) {
            let refuse = |reason: &str| Error::Unfoldable {
                what: "merge",
                reason: format!("what {name} does at {boundary} {reason}"),
            };
            let absorbed = match act {
                BoundaryAct::Add(delta) => backbone.absorb(boundary.index, &hooks.weakened(delta)),
                BoundaryAct::Multiply(_) => {
                    return Err(refuse(
                        "is a product, which no weight of the backbone holds",
                    ));
                }
                BoundaryAct::Extras(_) => {
                    return Err(refuse("adds tokens, which no weight of the backbone holds"));
                }
                BoundaryAct::Function(_) => {
                    return Err(refuse("is a function of the activation"));
                }
            };
            let absorbed = absorbed.ok_or_else(|| {
                refuse("is a sum that no position embedding or bias there can hold")
            })?;
            backbone = write(backbone, absorbed)?;
        }
    }
    Ok(backbone)
}

fn write(backbone: BoxedBackbone, tensors: Tensors) -> Result<BoxedBackbone> {
    params::write(backbone, tensors)
        .map_err(|mismatch| Error::Conflict(format!("folded weights: {mismatch:?}")))
}

/// A layer's weight as a matrix, and its bias.
struct Folding<'a> {
    site: &'a Site,
    /// `[out, ..]`, the rest flattened; `[1, c]` for a norm.
    weight: Tensor<2>,
    shape: Vec<usize>,
    bias: Option<Tensor<1>>,
}

/// The names of a layer's weight and bias.
fn parts(site: &Site) -> [String; 2] {
    ["weight", "bias"].map(|part| format!("{}.{part}", site.name))
}

/// The names of the biases of its slices.
fn slice_biases(site: &Site) -> impl Iterator<Item = String> {
    site.slices.iter().filter_map(|slice| slice.bias.clone())
}

/// The bias of a site whose slices have biases of their own, with zeros where a slice has none; none if no
/// slice has one.
fn joined_bias(site: &Site, values: &Tensors) -> Option<TensorData> {
    slice_biases(site).next()?;
    let part = |slice: &Slice| {
        let own = slice.bias.as_ref().and_then(|name| values.get(name));
        own.map_or_else(
            || vec![0.0; slice.rows.len()],
            |data| params::floats(data.clone()),
        )
    };
    let joined: Vec<f32> = site.slices.iter().flat_map(part).collect();
    let rows = joined.len();
    Some(TensorData::new(joined, [rows]))
}

/// The biases of a site by name: its own, or those of its slices.
///
/// # Errors
/// [`Error::Unfoldable`] for a slice without a bias whose rows have become other than zero.
fn cut_bias(site: &Site, bias: TensorData) -> Result<Tensors> {
    if slice_biases(site).next().is_none() {
        let [_, name] = parts(site);
        return Ok(Tensors::from([(name, bias)]));
    }
    let values = params::floats(bias);
    let mut cut = Tensors::new();
    for slice in &site.slices {
        let own = values[slice.rows.clone()].to_vec();
        match &slice.bias {
            Some(name) => {
                let rows = own.len();
                cut.insert(name.clone(), TensorData::new(own, [rows]));
            }
            None if own.iter().all(|value| *value == 0.0) => {}
            None => {
                let reason = format!("{} has no bias that could hold a shift", slice.name);
                return Err(unfoldable(site, &reason));
            }
        }
    }
    Ok(cut)
}

/// Folds the acts at a site into the layer's weight and bias.
fn fold_site(
    site: &Site,
    [weight, bias]: [Option<TensorData>; 2],
    acts: Vec<Act>,
) -> Result<Tensors> {
    let Some(weight) = weight else {
        let refused = "a branch has no weight that could hold what acts on it";
        return Err(unfoldable(site, refused));
    };
    let device = Device::flex();
    let shape = weight.shape().to_vec();
    let rows = match site.kind {
        SiteKind::Norm { .. } => 1,
        _ => shape[0],
    };
    let rest = shape.iter().product::<usize>() / rows;
    let matrix = |data: TensorData| {
        let data = TensorData::new(params::floats(data), [rows, rest]);
        Tensor::<2>::from_data(data, &device)
    };
    let mut folding = Folding {
        site,
        weight: matrix(weight),
        shape,
        bias: bias.map(|bias| Tensor::from_data(bias, &device)),
    };
    // Acts on the input run before the layer, whatever their place in the list, so they are folded
    // after the acts on the output.
    let (inputs, outputs): (Vec<_>, Vec<_>) = acts.into_iter().partition(Act::is_on_input);
    for act in outputs {
        folding.output(act)?;
    }
    for act in inputs.into_iter().rev() {
        folding.input(act)?;
    }
    let data = TensorData::new(
        params::floats(folding.weight.into_data()),
        folding.shape.clone(),
    );
    let [weight, _] = parts(site);
    let mut folded = Tensors::from([(weight, data)]);
    if let Some(bias) = folding.bias {
        folded.extend(cut_bias(site, bias.into_data())?);
    }
    Ok(folded)
}

fn unfoldable(site: &Site, reason: &str) -> Error {
    Error::Unfoldable {
        what: "merge",
        reason: format!("{} ({}): {reason}", site.name, site.kind),
    }
}

impl Folding<'_> {
    fn is_norm(&self) -> bool {
        matches!(self.site.kind, SiteKind::Norm { .. })
    }

    fn refuse(&self, reason: &str) -> Error {
        unfoldable(self.site, reason)
    }

    fn output(&mut self, act: Act) -> Result<()> {
        match act {
            Act::LowRank(path) => {
                if matches!(self.site.kind, SiteKind::Conv { groups, .. } if groups > 1) {
                    let reason = "its side path reads all channels, its weight those of a group";
                    return Err(self.refuse(reason));
                }
                self.weight = path.folded(self.weight.clone());
            }
            Act::ScaleShift { scale, shift, .. } => {
                if let Some(scale) = scale {
                    // The weight is [out, ..]; that of a norm is [1, c].
                    let axis = usize::from(!self.is_norm());
                    self.weight = self.weight.clone() * scale.clone().unsqueeze_dim(axis);
                    self.bias = self.bias.take().map(|bias| bias * scale);
                }
                if let Some(shift) = shift {
                    self.add_to_bias(shift)?;
                }
            }
            Act::Weight(change) => self.weight = change.of(self.weight.clone()),
            Act::Branch(..) => return Err(self.refuse("a function of a branch is not linear")),
            Act::InputLowRank(_) => unreachable!("folded with the input"),
        }
        Ok(())
    }

    fn input(&mut self, act: Act) -> Result<()> {
        if self.is_norm() {
            return Err(self.refuse("what acts on the input of a norm is normalised away"));
        }
        match act {
            // `W (x + B A x) = (W + W B A) x`.
            Act::InputLowRank(path) => {
                let weight = self.weight.clone();
                let product = weight.clone().matmul(path.path.factors.product());
                self.weight = weight + product * path.factor();
                Ok(())
            }
            Act::ScaleShift { scale, shift, .. } => self.scale_shift_input(scale, shift),
            _ => Err(self.refuse("only paths, scales and shifts act on an input")),
        }
    }

    /// `W (g x + h) + b = (W diag g) x + (W h + b)`.
    fn scale_shift_input(
        &mut self,
        scale: Option<Tensor<1>>,
        shift: Option<Tensor<1>>,
    ) -> Result<()> {
        let (padded, groups) = match self.site.kind {
            SiteKind::Conv {
                padding, groups, ..
            } => (padding != [0, 0], groups),
            _ => (false, 1),
        };
        if groups > 1 {
            return Err(
                self.refuse("what acts on the input of a grouped convolution is not folded")
            );
        }
        // A flattened kernel has one column for each tap of each channel.
        let taps = |v: Tensor<1>, columns: usize| {
            let channels = v.dims()[0];
            let each = columns / channels;
            let v: Tensor<2> = v.unsqueeze_dim(1);
            v.expand([channels, each]).reshape([1, columns])
        };
        let columns = self.weight.dims()[1];
        if let Some(shift) = shift {
            if padded {
                return Err(self.refuse("a shift before zero padding differs at the border"));
            }
            // The shift goes first: it passes through the weight as it was before the scale is
            // folded in.
            let added = (self.weight.clone() * taps(shift, columns)).sum_dim(1);
            self.add_to_bias(added.squeeze_dim(1))?;
        }
        if let Some(scale) = scale {
            self.weight = self.weight.clone() * taps(scale, columns);
        }
        Ok(())
    }

    fn add_to_bias(&mut self, shift: Tensor<1>) -> Result<()> {
        match self.bias.take() {
            Some(bias) => {
                self.bias = Some(bias + shift);
                Ok(())
            }
            None => Err(self.refuse("it has no bias that could hold a shift")),
        }
    }
}
