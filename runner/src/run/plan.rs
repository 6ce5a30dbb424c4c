//! The plan of a run, printed before it and by `--dry-run`: what trains, where, beside the formula.

use std::fmt::Write;

use peft_core::{Model, params};

use crate::device::Chosen;
use crate::model::trial::Trial;

/// The plan in words.
pub fn plan(trial: &Trial, model: &Model, device: &Chosen) -> String {
    let (spec, counts) = (&trial.spec, model.counts());
    let (boundaries, sites) = model.acts();
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12}{value}");
    };
    line("backbone", format!("{} ({} blocks)", spec.name, spec.depth));
    line("input", trial.input.to_string());
    let methods = trial.experiment.method.iter();
    let methods: Vec<_> = methods.map(|method| method.typetag_name()).collect();
    line("method", methods.join(" + "));
    for index in boundaries {
        let boundary = &spec.boundaries[index];
        line("  acts at", format!("{boundary}, {}", boundary.shape));
    }
    for name in &sites {
        if let Some(site) = spec.site(name) {
            line(
                "  acts at",
                format!("{name}, {} (block {})", site.kind, site.block),
            );
        }
    }
    line(
        "trains",
        format!(
            "{} of {} parameters: adapter {}, backbone {}, head {}",
            counts.trainable, counts.total, counts.adapter, counts.tuned, counts.head
        ),
    );
    line(
        "formula",
        format!(
            "{} without the head: {}",
            trial.formula,
            match trial.formula == counts.adapter + counts.tuned {
                true => "equal",
                false => "NOT EQUAL to what trains, which is a defect",
            }
        ),
    );
    let cut = model.first_cut();
    line(
        "prefix",
        match spec.boundaries.get(cut) {
            Some(_) if cut == 0 => "none: the gradient reaches the image".to_owned(),
            Some(boundary) => format!("frozen up to {boundary}, run without autodiff"),
            None => "the whole backbone, run without autodiff".to_owned(),
        },
    );
    let sizes = |split| trial.data.len(split);
    let [train, validation, test] = peft_core::Split::ALL.map(sizes);
    line(
        "data",
        format!(
            "{}: {train} train, {validation} validation, {test} test, {} classes",
            trial.experiment.dataset.typetag_name(),
            trial.data.classes().len()
        ),
    );
    line("memory", estimate(trial, model));
    line("device", device.name.clone());
    line("run", trial.slug());
    text
}

/// Weights, gradients, optimiser state and the activations that backward needs.
fn estimate(trial: &Trial, model: &Model) -> String {
    let counts = model.counts();
    let cut = model.first_cut();
    // Every site above the cut keeps its input; blocks keep what their boundary holds.
    let kept: usize = trial
        .spec
        .sites
        .iter()
        .filter(|site| site.block >= cut)
        .filter_map(|site| trial.spec.boundaries.get(site.block.max(1)))
        .map(|boundary| boundary.shape.elements())
        .sum();
    let batch = trial.experiment.recipe.batch_size;
    let activations = kept * batch * 4;
    let trained: usize = params::infos(model)
        .iter()
        .filter(|info| model.trains(&info.name))
        .map(|info| info.bytes)
        .sum();
    // A gradient and two moments.
    let total = counts.total_bytes + 3 * trained + activations;
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    format!(
        "about {:.0} MiB: weights {:.1}, gradients and optimiser {:.1}, activations of a batch of \
         {batch} {:.0} (an estimate: one value for each input of a site)",
        mib(total),
        mib(counts.total_bytes),
        mib(3 * trained),
        mib(activations)
    )
}
