//! The claims about layers, and the rules by which their verdicts follow from scores that are paired by seed.

use std::collections::BTreeMap;

use super::sweep::{Place, Sweep};
use crate::study::claim::{Claim, Judged, Verdict};
use crate::study::statistics::{Paired, SEEDS, above};
use crate::study::trained::pretrainings::{bundled, pretrained_twice};
use crate::study::trained::rows::{differences, mean_of};
use crate::study::trained::together;

const CNN_DEEP: Claim = Claim {
    id: "cnn-deep",
    source: "Fig. 2, 4, Sec. 4.1",
    claim: "the best boundary of a convolutional network lies in its deeper half",
};
const VIT_SHALLOW: Claim = Claim {
    id: "vit-shallow",
    source: "Fig. 4, A2, Sec. 4.1",
    claim: "the best boundary of a Vision Transformer lies in its shallower half",
};
const ABOVE_NORM: Claim = Claim {
    id: "above-norm",
    source: "Fig. 2, 4, Sec. 3",
    claim: "within the best boundaries an activation prompt beats norm-tuning",
};
const R101_5: Claim = Claim {
    id: "r101-5",
    source: "Fig. 2, Sec. 3",
    claim: "on ResNet-101 the best activation prompt is about 5 points above VP",
};
const VPT_LAYERS: Claim = Claim {
    id: "vpt-layers",
    source: "Fig. A3",
    claim: "a VPT of one layer shows the same preference of layers and stays below the activation prompt",
};
const COST: Claim = Claim {
    id: "cost",
    source: "Fig. 2, Sec. 3",
    claim: "the work of training falls as the boundary deepens",
};

/// What "about 5 points" admits, in shares.
const ABOUT_FIVE: std::ops::RangeInclusive<f64> = 0.04..=0.06;

/// The label of the backbone of claim `r101-5`.
const R101: &str = "resnet101";

fn is_norm(method: &str) -> bool {
    method.to_lowercase().starts_with("norm")
}

fn is_vp(method: &str) -> bool {
    let method = method.to_lowercase();
    method == "vp" || method.starts_with("vp-")
}

fn find<'a>(sweep: &'a Sweep, which: fn(&str) -> bool) -> Option<&'a Place> {
    let lines = sweep.places.iter().filter(|place| place.boundary.is_none());
    let label = lines
        .map(|place| place.method.as_str())
        .find(|method| which(method))?;
    sweep.line(label)
}

/// The claims that these sweeps can speak of.
pub fn claims_of(sweeps: &[Sweep]) -> Vec<Claim> {
    let any = |which: &dyn Fn(&Sweep) -> bool| sweeps.iter().any(which);
    let claims = [
        (CNN_DEEP, any(&|sweep| sweep.skeleton.is_cnn())),
        (VIT_SHALLOW, any(&|sweep| !sweep.skeleton.is_cnn())),
        (ABOVE_NORM, any(&|sweep| find(sweep, is_norm).is_some())),
        (
            R101_5,
            any(&|sweep| sweep.skeleton.label == R101 && find(sweep, is_vp).is_some()),
        ),
        (VPT_LAYERS, any(&|sweep| !sweep.of("vpt").is_empty())),
        (COST, true),
    ];
    let spoken = claims.into_iter().filter(|(_, spoken)| *spoken);
    spoken.map(|(claim, _)| claim).collect()
}

/// The verdicts, from what all sweeps say.
pub fn judge(claims: &[Claim], sweeps: &[Sweep]) -> Vec<Judged> {
    let mut judged = Vec::new();
    for claim in claims {
        let speaks: Vec<(String, (Verdict, String))> = sweeps
            .iter()
            .filter_map(|sweep| Some((sweep.title(), on(claim, sweep)?)))
            .collect();
        judged.push(claim.judged(of_its_kind(claim, sweeps, together(speaks))));
    }
    judged
}

/// Replaces the verdicts that need neither weights nor images.
pub fn decide_by_counting(judged: &mut [Judged], sweeps: &[Sweep]) {
    for own in judged.iter_mut().filter(|own| own.id == COST.id) {
        *own = judge(&[COST], sweeps).remove(0);
    }
}

/// The preference of layers needs two pretrainings in miniature.
fn of_its_kind(claim: &Claim, sweeps: &[Sweep], judgement: (Verdict, String)) -> (Verdict, String) {
    let cnn = match claim.id {
        "cnn-deep" => true,
        "vit-shallow" => false,
        _ => return judgement,
    };
    let skeletons = sweeps.iter().map(|sweep| sweep.skeleton);
    pretrained_twice(&bundled(skeletons, cnn), judgement)
}

/// The verdict of one sweep on a claim; none if the claim does not apply to it.
fn on(claim: &Claim, sweep: &Sweep) -> Option<(Verdict, String)> {
    let cnn = sweep.skeleton.is_cnn();
    match claim.id {
        "cnn-deep" => cnn.then(|| half(sweep, "ap", true)),
        "vit-shallow" => (!cnn).then(|| half(sweep, "ap", false)),
        "above-norm" => Some(against(sweep, find(sweep, is_norm)?)),
        "r101-5" => {
            let vp = find(sweep, is_vp).filter(|_| sweep.skeleton.label == R101)?;
            Some(about_five(sweep, vp))
        }
        "vpt-layers" => (!sweep.of("vpt").is_empty()).then(|| vpt(sweep)),
        _ => Some(cost(sweep)),
    }
}

/// The row with the largest mean on validation; of equal ones the shallower.
fn best<'a>(places: &[&'a Place]) -> Option<&'a Place> {
    let mut best: Option<&Place> = None;
    for &place in places {
        let score = mean_of(&place.row.validation);
        if score.is_some() && best.is_none_or(|best| score > mean_of(&best.row.validation)) {
            best = Some(place);
        }
    }
    best
}

fn no_scores() -> (Verdict, String) {
    (Verdict::Undecided, "some rows have no score".to_owned())
}

/// Whether a boundary lies in the deeper half of `L` blocks.
fn is_deep(boundary: usize, depth: usize) -> bool {
    2 * boundary > depth + 1
}

/// The best boundary of each half, chosen on validation, against the other on test: the claimed half must
/// be above.
fn half(sweep: &Sweep, method: &str, deep: bool) -> (Verdict, String) {
    let depth = sweep.skeleton.spec().depth;
    let places = sweep.of(method);
    let of = |deep: bool| {
        let own = places.iter().copied();
        let own = own.filter(|place| place.boundary.is_some_and(|b| is_deep(b, depth) == deep));
        best(&own.collect::<Vec<_>>())
    };
    let (Some(claimed), Some(other), Some(all)) = (of(deep), of(!deep), best(&places)) else {
        return no_scores();
    };
    let (verdict, text) = above(&differences(&claimed.row.test, &other.row.test));
    let at = |place: &Place| place.boundary.unwrap_or(0);
    let text = format!(
        "validation prefers boundary {} of {}; the best of the {} half (boundary {}) minus the best of the other (boundary \
         {}): {text}",
        at(all),
        depth + 1,
        if deep { "deeper" } else { "shallower" },
        at(claimed),
        at(other)
    );
    (verdict, text)
}

fn against(sweep: &Sweep, norm: &Place) -> (Verdict, String) {
    let Some(ap) = best(&sweep.of("ap")) else {
        return no_scores();
    };
    let (verdict, text) = above(&differences(&ap.row.test, &norm.row.test));
    let boundary = ap.boundary.unwrap_or(0);
    (
        verdict,
        format!("AP at boundary {boundary} minus norm-tuning: {text}"),
    )
}

/// Whether the interval of the difference meets 4 to 6 points.
fn about_five(sweep: &Sweep, vp: &Place) -> (Verdict, String) {
    let Some(ap) = best(&sweep.of("ap")) else {
        return no_scores();
    };
    let differences = differences(&ap.row.test, &vp.row.test);
    let Some(paired) = Paired::of(&differences).filter(|paired| paired.pairs >= SEEDS) else {
        let text = format!(
            "{} seeds with both results; a verdict needs at least {SEEDS}",
            differences.len()
        );
        return (Verdict::Undecided, text);
    };
    let meets = paired.low <= *ABOUT_FIVE.end() && paired.high >= *ABOUT_FIVE.start();
    let verdict = match (meets, ABOUT_FIVE.contains(&paired.mean)) {
        (true, true) => Verdict::Holds,
        (false, _) => Verdict::DoesNotHold,
        (true, false) => Verdict::Undecided,
    };
    let boundary = ap.boundary.unwrap_or(0);
    (
        verdict,
        format!("AP at boundary {boundary} minus VP: {}", paired.points()),
    )
}

/// VPT must prefer the same half, and the best activation prompt must be above the best VPT.
fn vpt(sweep: &Sweep) -> (Verdict, String) {
    let deep = sweep.skeleton.is_cnn();
    let (preference, first) = half(sweep, "vpt", deep);
    let (Some(ap), Some(vpt)) = (best(&sweep.of("ap")), best(&sweep.of("vpt"))) else {
        return no_scores();
    };
    let (below, second) = above(&differences(&ap.row.test, &vpt.row.test));
    let verdict = match (preference, below) {
        (Verdict::Holds, Verdict::Holds) => Verdict::Holds,
        (Verdict::DoesNotHold, _) | (_, Verdict::DoesNotHold) => Verdict::DoesNotHold,
        _ => Verdict::Undecided,
    };
    (verdict, format!("VPT: {first}; AP minus VPT: {second}"))
}

/// By counting: the work of a step must never rise with the boundary, and fall from the first to the last.
fn cost(sweep: &Sweep) -> (Verdict, String) {
    let work: BTreeMap<usize, u64> = sweep
        .of("ap")
        .iter()
        .filter_map(|place| Some((place.boundary?, place.count.step)))
        .collect();
    let steps: Vec<u64> = work.values().copied().collect();
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return no_scores();
    };
    let falls = steps.is_sorted_by(|a, b| a >= b) && (last < first || steps.len() == 1);
    let text = format!(
        "a step at the last boundary takes {:.2} of the operations of one at the first",
        *last as f64 / *first as f64
    );
    (Verdict::of(falls), text)
}
