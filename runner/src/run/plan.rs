//! The plan of a run, printed before it and by `--dry-run`: what trains, where, and the count by
//! the formula. Equal places are folded, so that the plan fits on a screen.

use std::fmt::Write;

use peft_core::{BackboneSpec, Counts, Model, Step, params};

use crate::config::recipe::{Decays, Precision};
use crate::device::ComputeDevice;
use crate::model::trial::Trial;
use crate::report::numbers::mebibytes;

/// The number of lines about places: with the other lines they make 24, the height of the smallest
/// terminals.
const PLACES: usize = 12;

/// The number of classes whose weights are shown one by one.
const WEIGHTS: usize = 10;

/// Describes the plan in words.
pub fn plan(trial: &Trial, model: &Model, device: &ComputeDevice) -> String {
    let (spec, counts) = (&trial.spec, model.counts());
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key:<12}{value}");
    };
    line("backbone", format!("{} ({} blocks)", spec.name, spec.depth));
    if trial.weights_hash().is_none() {
        let seed = trial.experiment.seed;
        line("weights", format!("random (seed {seed}), not pretrained"));
    }
    line("input", input(trial));
    let methods = trial.experiment.method.iter();
    let methods: Vec<_> = methods.map(|method| method.typetag_name()).collect();
    line("method", methods.join(" + "));
    let places = folded(&acting(spec, model));
    let does = match model.taps().are_of_side() {
        true => "  reads",
        false => "  acts at",
    };
    // Saying that there is one more place would take as many lines as showing it.
    let shown = match places.len() {
        0..=PLACES => places.len(),
        _ => PLACES - 1,
    };
    for place in &places[..shown] {
        line(does, place.to_string());
    }
    if shown < places.len() {
        let more = places.len() - shown;
        line("", format!("and {more} more kinds of places (--verbose)"));
    }
    line(
        "trains",
        format!(
            "{} of {} parameters: adapter {}, backbone {}, head {}",
            counts.trainable, counts.total, counts.adapter, counts.tuned, counts.head
        ),
    );
    if let Some(selection) = model.selection() {
        line(
            "",
            format!(
                "single entries of the backbone, selected by their gradients over {} of its first batches",
                selection.batches
            ),
        );
    }
    line("formula", formula(trial.formula, counts));
    if let Some(decay) = decay(trial, model) {
        line("decay", decay);
    }
    if let Some(average) = &trial.experiment.recipe.ema {
        let rising = if average.warmup { "up to " } else { "" };
        line(
            "average",
            format!(
                "what is judged is a moving average, decay {rising}{}",
                average.decay
            ),
        );
    }
    let cut = model.first_cut();
    line(
        "prefix",
        match spec.boundaries.get(cut) {
            Some(_) if cut == 0 => "none: the gradient reaches the image".to_owned(),
            Some(boundary) => format!("frozen up to {boundary}, run without autodiff"),
            None => "the whole backbone, run without autodiff".to_owned(),
        },
    );
    if trial.experiment.recipe.drop_path > 0.0 {
        line(
            "drop path",
            drop_path(spec, cut, trial.experiment.recipe.drop_path),
        );
    }
    let sizes = |split| trial.data.len(split);
    let [train, validation, test] = peft_core::Split::ALL.map(sizes);
    line(
        "data",
        format!(
            "{}: {train} train, {validation} validation, {test} test, {} classes{}",
            trial.experiment.dataset.typetag_name(),
            trial.data.classes().len(),
            match trial.data.is_multi_label() {
                true => ", several labels per image",
                false => "",
            }
        ),
    );
    if let Some(weights) = trial.loss.weights() {
        line(
            "loss",
            format!("classes weigh {}", weighted(weights, &trial.classes)),
        );
    }
    line("memory", estimate(trial, model));
    let narrow = trial.experiment.recipe.precision == Precision::Bf16;
    line(
        "device",
        match narrow && device.is_cpu() {
            true => format!("{}: {}", device.name, ComputeDevice::bf16_of_cpu()),
            false => device.name.clone(),
        },
    );
    line("run", trial.slug());
    text
}

/// The weight of each class, or the range of them where there are many.
fn weighted(weights: &[f32], classes: &[String]) -> String {
    if weights.len() <= WEIGHTS {
        let all = classes.iter().zip(weights);
        let all: Vec<_> = all.map(|(class, w)| format!("{class} {w:.3}")).collect();
        return all.join(", ");
    }
    let least = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let most = weights.iter().copied().fold(0.0, f32::max);
    format!("{least:.3} to {most:.3}")
}

/// The blocks whose branches are dropped, and how often.
fn drop_path(spec: &BackboneSpec, cut: usize, largest: f64) -> String {
    let step = Step::new(0, 0, 0, false).with_drop_path(largest, spec.depth);
    let rates = spec.sites.iter().filter(|site| site.block >= cut);
    let rates = rates.map(|site| (site.block, step.drop_path(site)));
    let rates: Vec<(usize, f64)> = rates.filter(|(_, rate)| *rate > 0.0).collect();
    let prefix = match cut {
        0 | 1 => "",
        _ => "; blocks of the frozen prefix are not dropped",
    };
    match (rates.first(), rates.last()) {
        (Some((first, low)), Some((last, high))) => {
            format!("{low:.3} in block {first} to {high:.3} in block {last}{prefix}")
        }
        _ => format!("no block is dropped{prefix}"),
    }
}

/// Says which parameters decay, unless all of them do.
fn decay(trial: &Trial, model: &Model) -> Option<String> {
    let recipe = &trial.experiment.recipe;
    if recipe.decays == Decays::Everything {
        return None;
    }
    let infos = params::infos(model);
    let trained = infos.iter().filter(|info| model.trains(&info.name));
    let (decayed, spared): (Vec<_>, Vec<_>) = trained.partition(|info| model.decays(info));
    let count = |infos: &[&params::ParamInfo]| infos.iter().map(|i| i.count()).sum::<usize>();
    let by = recipe.optimizer.weight_decay();
    Some(format!(
        "{by} on {} parameters in {} tensors, none on {} in {}",
        count(&decayed),
        decayed.len(),
        count(&spared),
        spared.len()
    ))
}

/// Describes the images that the model takes, and what of it the data set decides.
pub fn input(trial: &Trial) -> String {
    let stated = trial.experiment.dataset.transform().stated();
    let by = match stated.is_empty() {
        true => String::new(),
        false => format!("; {} by the data set's protocol", stated.join(", ")),
    };
    format!("{}{by}", trial.input)
}

/// The formula's count beside what trains.
pub fn formula(formula: usize, counts: Counts) -> String {
    let equal = formula == counts.adapter + counts.tuned;
    format!(
        "{formula} without the head: {}",
        if equal {
            "equal"
        } else {
            "NOT EQUAL to what trains, which is a defect"
        }
    )
}

/// The places where the adapters act, equal ones as one.
pub fn folded_places(spec: &BackboneSpec, model: &Model) -> Vec<String> {
    let folds = folded(&acting(spec, model));
    folds.iter().map(ToString::to_string).collect()
}

/// Lists every place where the adapters act, one on each line, which the plan folds.
pub fn places(trial: &Trial, model: &Model) -> Vec<String> {
    let places = acting(&trial.spec, model).into_iter();
    places
        .map(|Place { name, note, what }| format!("{name} ({note}), {what}"))
        .collect()
}

/// A place where an adapter acts: a boundary or a site.
struct Place {
    name: String,
    /// Its position in the backbone.
    note: String,
    /// Its shape or sizes.
    what: String,
}

fn acting(spec: &BackboneSpec, model: &Model) -> Vec<Place> {
    let (acts, sites) = model.acts();
    let boundaries = match model.taps().are_of_side() {
        true => model.taps().read().to_vec(),
        false => acts,
    };
    let boundaries = boundaries.into_iter().map(|index| {
        let (name, note) = match spec.boundaries.get(index) {
            Some(boundary) => (format!("boundary {index}"), boundary.place.clone()),
            None => ("features".to_owned(), "after the last block".to_owned()),
        };
        let what = spec.shape_at(index).to_string();
        Place { name, note, what }
    });
    let sites = sites.iter().filter_map(|name| spec.site(name));
    let sites = sites.map(|site| Place {
        name: site.name.clone(),
        note: format!("block {}", site.block),
        what: site.kind.to_string(),
    });
    boundaries.chain(sites).collect()
}

/// Places that differ in one number of their names only, such as `blocks.0-11.attn.qkv`.
#[derive(Debug, PartialEq, Eq)]
struct Fold {
    before: String,
    numbers: Vec<usize>,
    after: String,
    what: String,
    /// The positions of the first and the last of them.
    notes: [String; 2],
}

impl std::fmt::Display for Fold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            before,
            numbers,
            after,
            what,
            notes: [first, last],
        } = self;
        write!(f, "{before}{}{after}", ranges(numbers))?;
        if numbers.len() > 1 {
            write!(f, " ({first} to {last}), {what}")
        } else {
            write!(f, " ({first}), {what}")
        }
    }
}

/// Folds places of one kind into one; the order stays.
fn folded(places: &[Place]) -> Vec<Fold> {
    let mut folds: Vec<Fold> = Vec::new();
    for Place { name, note, what } in places {
        let (before, number, after) = split(name);
        let same = folds.iter_mut().find(|fold| {
            number.is_some() && fold.before == before && fold.after == after && fold.what == *what
        });
        match same {
            Some(fold) => {
                fold.numbers.extend(number);
                fold.notes[1].clone_from(note);
            }
            None => folds.push(Fold {
                before: before.to_owned(),
                numbers: number.into_iter().collect(),
                after: after.to_owned(),
                what: what.clone(),
                notes: [note.clone(), note.clone()],
            }),
        }
    }
    folds
}

/// Splits a name at its last part that is a number, for example into `blocks.`, 3 and `.attn.qkv`;
/// a name without a number stays whole. The number of a stage is kept in the name, because the
/// blocks of another stage have other sizes.
fn split(name: &str) -> (&str, Option<usize>, &str) {
    let mut end = name.len();
    for part in name.rsplit(['.', ' ']) {
        let start = end - part.len();
        if let Ok(number) = part.parse() {
            return (&name[..start], Some(number), &name[end..]);
        }
        end = start.saturating_sub(1);
    }
    (name, None, "")
}

/// Writes `0-3,7` for 0, 1, 2, 3 and 7.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<[usize; 2]> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some([_, last]) if *last + 1 == number => *last = number,
            _ => runs.push([number, number]),
        }
    }
    let runs = runs.iter().map(|[first, last]| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    runs.collect::<Vec<_>>().join(",")
}

/// Estimates the memory of weights, gradients, optimiser state and the activations that the
/// backward pass needs.
fn estimate(trial: &Trial, model: &Model) -> String {
    let counts = model.counts();
    let cut = model.first_cut();
    // Every site above the cut keeps its input, which is about as large as the boundary of its
    // block.
    let kept: usize = trial
        .spec
        .sites
        .iter()
        .filter(|site| site.block >= cut)
        .filter_map(|site| trial.spec.boundaries.get(site.block.max(1)))
        .map(|boundary| boundary.shape.elements())
        .sum();
    // A side network keeps what it reads, beside its own activations, which are smaller.
    let kept = match model.taps().are_of_side() {
        true => trial.tapped_shape(model.taps()).elements(),
        false => kept,
    };
    let batch = trial.experiment.recipe.batch_size;
    let activations = kept * batch * size_of::<f32>();
    let trained: usize = params::infos(model)
        .iter()
        .filter(|info| model.trains(&info.name))
        .map(|info| info.bytes)
        .sum();
    // A gradient and the two moments of AdamW for each trained value, and its moving average.
    let training = (3 + usize::from(trial.experiment.recipe.ema.is_some())) * trained;
    format!(
        "an estimated {}: weights {}, gradients and optimiser {}, activations of {batch} images {}",
        mebibytes(counts.total_bytes + training + activations),
        mebibytes(counts.total_bytes),
        mebibytes(training),
        mebibytes(activations)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folded places of sites in the blocks 1, 2, ..
    fn lines(names: &[(&str, &str)]) -> Vec<String> {
        let places: Vec<_> = (1..)
            .zip(names)
            .map(|(block, (name, what))| Place {
                name: (*name).to_owned(),
                note: format!("block {block}"),
                what: (*what).to_owned(),
            })
            .collect();
        folded(&places).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_places_are_folded_and_others_are_not() {
        let vit: Vec<String> = (0..12)
            .flat_map(|i| ["attn.qkv", "mlp.fc1"].map(|site| format!("blocks.{i}.{site}")))
            .collect();
        let vit: Vec<_> = vit.iter().map(|name| (name.as_str(), "linear")).collect();
        let expected = [
            "blocks.0-11.attn.qkv (block 1 to block 23), linear",
            "blocks.0-11.mlp.fc1 (block 2 to block 24), linear",
        ];
        assert_eq!(lines(&vit), expected);
        let boundaries = [
            ("boundary 0", "3 x 8 x 8"),
            ("boundary 1", "4 x 8"),
            ("boundary 2", "4 x 8"),
        ];
        let expected = [
            "boundary 0 (block 1), 3 x 8 x 8",
            "boundary 1-2 (block 2 to block 3), 4 x 8",
        ];
        assert_eq!(lines(&boundaries), expected);
        let resnet = [
            ("conv1", "conv 7x7"),
            ("layer1.0.conv1", "conv 4 -> 4"),
            ("layer1.1.conv1", "conv 4 -> 4"),
            ("layer1.3.conv1", "conv 4 -> 4"),
            ("layer2.0.conv1", "conv 4 -> 8"),
            ("layer2.1.conv1", "conv 8 -> 8"),
        ];
        let expected = [
            "conv1 (block 1), conv 7x7",
            "layer1.0-1,3.conv1 (block 2 to block 4), conv 4 -> 4",
            "layer2.0.conv1 (block 5), conv 4 -> 8",
            "layer2.1.conv1 (block 6), conv 8 -> 8",
        ];
        assert_eq!(lines(&resnet), expected);
        let swin = [
            ("layers.0.blocks.0.norm1", "norm 8"),
            ("layers.0.blocks.1.norm1", "norm 8"),
            ("layers.1.blocks.0.norm1", "norm 8"),
        ];
        let expected = [
            "layers.0.blocks.0-1.norm1 (block 1 to block 2), norm 8",
            "layers.1.blocks.0.norm1 (block 3), norm 8",
        ];
        assert_eq!(lines(&swin), expected);
    }
}
