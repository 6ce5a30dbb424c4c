//! Where a model looks: the attention of its blocks, Grad-CAM, and how strong prompts are.
//!
//! Grad-CAM: "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", Selvaraju et al., 2017,
//! Eqs. 1 and 2: `relu(sum_k a_k A_k)` with `a_k` the mean gradient of a class's logit over the positions of channel `k`.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::activation::{Activation, BoundaryShape};
use crate::acts::BoundaryAct;
use crate::attention::{Attended, AttentionRecord};
use crate::model::Model;
use crate::params::floats;
use crate::spec::Cut;

/// A number for each position of an image, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Heat {
    /// Rows and columns.
    pub grid: [usize; 2],
    /// `rows * columns` numbers.
    pub values: Vec<f32>,
}

/// How strong the prompts at a boundary are.
#[derive(Clone, Debug, PartialEq)]
pub struct Strength {
    /// The boundary.
    pub index: Cut,
    /// The root of the mean square of what is added, or of the tokens that are appended.
    pub prompt: f64,
    /// That of the activation that it joins, over all images.
    pub activation: f64,
    /// The norm of what is added over the channels, by position; none for appended tokens and for a prompt that all
    /// positions share.
    pub positions: Option<Heat>,
}

/// The rows and columns on which the positions of a boundary lie, and the tokens before them; none if they lie on no grid.
fn grid(model: &Model, cut: Cut) -> Option<([usize; 2], usize)> {
    match model.spec().shape_at(cut) {
        BoundaryShape::Map { height, width, .. } | BoundaryShape::Grid { height, width, .. } => {
            Some(([height, width], 0))
        }
        BoundaryShape::Tokens { .. } => {
            let block = cut.clamp(1, model.spec().depth);
            let at = model.backbone.attention_grid(block)?;
            Some((at.grid, at.prefix))
        }
        BoundaryShape::Features { .. } => None,
    }
}

/// Channels last: `[b, positions, c]`, the image's own tokens only.
fn by_position(x: Activation) -> Option<Tensor<3>> {
    match x {
        Activation::Map(x) => Some(x.flatten::<3>(2, 3).swap_dims(1, 2)),
        Activation::Grid(x) => Some(x.flatten::<3>(1, 2)),
        Activation::Tokens(tokens) => {
            let own = tokens.own();
            Some(tokens.x.narrow(1, 0, own))
        }
        Activation::Features(_) => None,
    }
}

fn rms(values: impl Iterator<Item = f32>) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values {
        sum += f64::from(value).powi(2);
        count += 1;
    }
    (sum / count.max(1) as f64).sqrt()
}

/// Positive where the regions speak for a class: Grad-CAM of each image for the class of that index.
///
/// It reads the output of the last block, or its input where the activation is a sequence of tokens: no gradient reaches
/// the patches after the last block of a network that pools the class token. None if positions lie on no grid, or if a side
/// network reads more than this activation.
///
/// # Shapes
/// `images`: `[b, 3, h, w]`; one map for each of the `b` classes.
pub fn grad_cam(model: &Model, images: Activation, classes: &[usize]) -> Option<Vec<Heat>> {
    if model.taps().are_of_side() {
        return None;
    }
    let spec = model.spec();
    let cut = match spec.shape_at(spec.last_boundary()) {
        BoundaryShape::Tokens { .. } => spec.depth,
        _ => spec.last_boundary(),
    };
    let ([rows, columns], prefix) = grid(model, cut)?;
    let below = model.valid().span(images, 0..cut, None);
    let extras = below.clone();
    let own = by_position(below.into_autodiff())?.require_grad(); // [b, n, c]
    let logits = model
        .clone()
        .train()
        .logits(rebuilt(extras, own.clone()), cut, None);
    let device = logits.device();
    let labels: Vec<i64> = classes.iter().map(|class| *class as i64).collect();
    let labels = Tensor::<1, Int>::from_data(&labels[..], &device).unsqueeze_dim(1);
    let chosen = logits.gather(1, labels).sum();
    let gradients = chosen.backward();
    let gradient = own.grad(&gradients)?; // [b, n, c]
    let own = own.inner();
    let [images, ..] = own.dims();
    let patches = |x: Tensor<3>| x.narrow(1, prefix, rows * columns);
    let weights = patches(gradient).mean_dim(1); // [b, 1, c]
    let cam = (patches(own) * weights).sum_dim(2).clamp_min(0.0);
    let values = floats(cam.into_data());
    let heat = |values: &[f32]| Heat {
        grid: [rows, columns],
        values: values.to_vec(),
    };
    let maps = values.chunks_exact(values.len() / images);
    Some(maps.map(heat).collect())
}

/// The activation whose own positions are replaced by `own`.
fn rebuilt(like: Activation, own: Tensor<3>) -> Activation {
    let like = like.into_autodiff();
    match like {
        Activation::Map(x) => {
            let shape = x.dims();
            Activation::Map(own.swap_dims(1, 2).reshape(shape))
        }
        Activation::Grid(x) => Activation::Grid(own.reshape(x.dims())),
        Activation::Tokens(tokens) => Activation::Tokens(tokens.map(|x| {
            let (count, all) = (own.dims()[1], x.dims()[1]);
            match all - count {
                0 => own,
                extras => Tensor::cat(vec![own, x.narrow(1, count, extras)], 1),
            }
        })),
        features @ Activation::Features(_) => features,
    }
}

/// The attention of every block to the patches: from the class token, or the mean of all queries where there is none,
/// averaged over the heads. Blocks with windows, and blocks without attention, are left out.
///
/// # Shapes
/// `images`: `[b, 3, h, w]`; for each block its branch and one map for each image.
pub fn attention(model: &Model, images: Activation) -> Vec<(String, Vec<Heat>)> {
    let record = AttentionRecord::default();
    let model = model.valid();
    let span = 0..model.spec().features_cut();
    let hooks = model.hooks(None).recording(&record);
    model.backbone.forward(images, span, &hooks);
    let has_class = crate::params::value(&*model.backbone, "cls_token").is_some();
    let spec = model.spec();
    let maps = record.take().into_iter().filter_map(|attended| {
        let block = spec.site(&attended.branch)?.block;
        let at = model.backbone.attention_grid(block)?;
        if at.windows {
            return None;
        }
        let Attended {
            branch, weights, ..
        } = attended;
        let weights = weights.mean_dim(1); // [b, 1, n, n]
        let queries = match has_class {
            true => weights.narrow(2, 0, 1),
            false => weights.mean_dim(2),
        };
        let [rows, columns] = at.grid;
        let patches = queries.narrow(3, at.prefix, rows * columns);
        let values = floats(patches.into_data());
        let heat = |values: &[f32]| Heat {
            grid: at.grid,
            values: values.to_vec(),
        };
        let maps = values.chunks_exact(rows * columns).map(heat).collect();
        Some((branch, maps))
    });
    maps.collect()
}

/// The strength of the prompts at each boundary where something is added, multiplied or appended.
///
/// # Shapes
/// `images`: `[b, 3, h, w]`.
pub fn strengths(model: &Model, images: Activation) -> Vec<Strength> {
    let model = model.valid();
    let (boundaries, _) = model.acts();
    let (mut x, mut from, mut found) = (images, 0, Vec::new());
    for index in boundaries {
        x = model.span(x, from..index, None);
        from = index;
        let activation = rms(x.to_vec().into_iter());
        for (_, act, _) in model.hooks(None).boundary_acts(index) {
            let (prompt, positions) = match act {
                BoundaryAct::Add(delta) => described(&model, index, delta, 0.0),
                // A factor of one leaves the activation as it is.
                BoundaryAct::Multiply(factor) => described(&model, index, factor, 1.0),
                BoundaryAct::Extras(extras) => {
                    let values = floats(extras.tokens.into_data());
                    (rms(values.into_iter()), None)
                }
                BoundaryAct::Function(_) => continue,
            };
            found.push(Strength {
                index,
                prompt,
                activation,
                positions,
            });
        }
    }
    found
}

/// The size of a value at a boundary, as its distance from the value that does nothing, and its norm by position.
fn described(model: &Model, index: Cut, value: Activation, nothing: f32) -> (f64, Option<Heat>) {
    let distance = rms(value.to_vec().into_iter().map(|value| value - nothing));
    let positions = grid(model, index).and_then(|([rows, columns], prefix)| {
        let values = by_position(value)? - nothing; // [1, n, c]
        let [_, n, _] = values.dims();
        (n >= prefix + rows * columns).then(|| {
            let own = values.narrow(1, prefix, rows * columns);
            let norms = own.square().sum_dim(2).sqrt();
            Heat {
                grid: [rows, columns],
                values: floats(norms.into_data()),
            }
        })
    });
    (distance, positions)
}

/// What is added to the image itself at boundary 0, or what frames it: its difference from the image that the model was
/// given, `[3, h, w]` in normalised values. None if nothing acts there.
///
/// # Shapes
/// `images`: `[b, 3, h, w]`; the first one is taken.
pub fn at_image(model: &Model, images: Activation) -> Option<(Vec<f32>, [usize; 2])> {
    let model = model.valid();
    model.acts().0.first().filter(|index| **index == 0)?;
    let Activation::Map(before) = images else {
        return None;
    };
    let before = before.narrow(0, 0, 1);
    let Activation::Map(after) = model
        .hooks(None)
        .at_boundary(0, Activation::Map(before.clone()))
    else {
        return None;
    };
    let [_, channels, height, width] = after.dims();
    let [_, _, inner, _] = before.dims();
    // A frame is larger than the image: inside it nothing changes.
    let change = if inner == height {
        after - before
    } else {
        let top = (height - inner) / 2;
        let zeros = before.zeros_like();
        after.slice_assign(
            [0..1, 0..channels, top..top + inner, top..top + inner],
            zeros,
        )
    };
    Some((floats(change.into_data()), [height, width]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_mean_square_of_nothing_is_nothing() {
        assert_eq!(rms([3.0, 4.0].into_iter()), 12.5f64.sqrt());
        assert_eq!(rms(std::iter::empty()), 0.0);
    }
}
