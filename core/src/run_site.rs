//! Runs a layer together with the acts at its site.

use burn::tensor::{DType, Tensor};

use crate::acts::Side;
use crate::channels::{like, scale_shift};
use crate::hooks::Act;
use crate::low_rank::Weighted;
use crate::site::Site;

/// Splits the functions of a layer's weight off its acts and evaluates them. Returns the new weight,
/// if there is a function, and the other acts.
pub(crate) fn split_weight(
    acts: Vec<Act>,
    own: impl FnOnce() -> Tensor<2>,
) -> (Option<Tensor<2>>, Vec<Act>) {
    let mut changes = Vec::new();
    let mut others = Vec::with_capacity(acts.len());
    for act in acts {
        match act {
            Act::Weight(change) => changes.push(change),
            other => others.push(other),
        }
    }
    if changes.is_empty() {
        return (None, others);
    }
    // A function may normalise or invert, so it is computed in f32 whatever the layer computes in.
    let weight = own().cast(DType::F32);
    let changed = changes
        .iter()
        .fold(weight, |weight, change| change.of(weight));
    (Some(changed), others)
}

/// Returns a factor and an offset for each channel of the output of a site, after the acts on them,
/// if all acts are factors and offsets. None if something else acts there.
///
/// # Shapes
/// `[c]` each.
pub(crate) fn affine(acts: &[Act], own: [Tensor<1>; 2]) -> Option<[Tensor<1>; 2]> {
    let [mut factor, mut offset] = own;
    for act in acts {
        let Act::ScaleShift {
            on: Side::Output,
            scale,
            shift,
        } = act
        else {
            return None;
        };
        if let Some(scale) = scale {
            let scale = like(scale.clone(), &factor);
            (factor, offset) = (factor * scale.clone(), offset * scale);
        }
        if let Some(shift) = shift {
            let shift = like(shift.clone(), &offset);
            offset = offset + shift;
        }
    }
    Some([factor, offset])
}

/// Runs a site: acts on the input, the operation itself, then acts on the output and side paths, in
/// order.
///
/// `axis` is the axis of the channels in the input and in the output; `layer` is the layer that
/// low-rank paths are beside.
pub(crate) fn run_site<const D: usize, const E: usize>(
    acts: Vec<Act>,
    site: &Site,
    x: Tensor<D>,
    axis: [usize; 2],
    operation: impl FnOnce(Tensor<D>) -> Tensor<E>,
    layer: &impl Weighted<D, E>,
) -> Tensor<E> {
    // Acts on the input come first, whatever their place in the list: they change what the layer and
    // every side path read.
    let (mut input, mut outputs) = (x, Vec::new());
    for act in acts {
        match act {
            Act::ScaleShift {
                on: Side::Input,
                scale,
                shift,
            } => input = scale_shift(input, axis[0], scale, shift),
            Act::InputLowRank(path) => input = path.onto(input, site),
            act => outputs.push(act),
        }
    }
    if outputs.is_empty() {
        return operation(input);
    }
    // A layer may compute its output together with the first act, which saves a pass over the
    // output. A path with dropout reads another input than the layer, so it cannot be joined.
    let together = match &outputs[0] {
        Act::LowRank(path) if !path.drops() => layer.with_low_rank(&input, path),
        Act::ScaleShift { scale, shift, .. } => layer.with_scale_shift(&input, scale, shift),
        _ => None,
    };
    let done = usize::from(together.is_some());
    let mut y = together.unwrap_or_else(|| operation(input.clone()));
    for act in outputs.into_iter().skip(done) {
        y = match act {
            Act::ScaleShift { scale, shift, .. } => scale_shift(y, axis[1], scale, shift),
            Act::LowRank(path) => path.beside(y, &input, axis[1], layer, site),
            Act::InputLowRank(_) => unreachable!("acts on the input came first"),
            Act::Weight(_) => panic!("{}: a {} has no weight matrix", site.name, site.kind),
            Act::Branch(..) => panic!("{}: a {} is not a branch", site.name, site.kind),
        };
    }
    y
}
