//! Fig. 6: how many training images an activation prompt needs, by the boundary at which it acts.

use std::collections::BTreeMap;

use peft_core::Split;
use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_yaml::{Mapping, Value};

use crate::compare::statistics::moments::mean;
use crate::exit::{At, Failure, config_error};
use crate::study::Study;
use crate::study::claim::{Claim, Verdict, all};
use crate::study::components;
use crate::study::figure::lines::{Line, Lines, Scale};
use crate::study::outcome::Outcome;
use crate::study::request::{Request, taken, typed};
use crate::study::statistics::SEEDS;
use crate::study::table::{number, numbers, percent};
use crate::study::trained::rows::{deviation_of, mean_of, rows};
use crate::study::trained::{Frame, Method, Rates, missing, settings};

pub const STUDY: Study = Study {
    name: "samples",
    summary: "how many training images an activation prompt needs at shallow and at deep layers",
    source: "Fig. 6, Sec. 4.2",
    files: &[],
    config: Some("study/samples-micro.yaml"),
    run,
};

const CLAIM: Claim = Claim {
    id: "shallow-needs-fewer",
    source: "Fig. 6, Sec. 4.2",
    claim: "an activation prompt at a shallow layer reaches an accuracy with fewer training images than at a deep one",
};

/// The share of the best accuracy that must be reached.
const SHARE: f64 = 0.9;
/// Resamples of the seeds.
const RESAMPLES: usize = 10_000;
/// The share of resamples that decides.
const DECIDES: f64 = 0.95;

/// The keys of the study's YAML that a comparison does not have.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The boundaries, in ascending order.
    boundaries: Vec<usize>,
    /// Training images of a class, at least 1, in ascending order.
    shots: Vec<usize>,
    /// Learning rates, among which validation chooses for every row: a list, or a list for each backbone.
    #[schemars(with = "serde_json::Value")]
    learning_rates: Value,
}

const KEYS: [&str; 3] = ["boundaries", "shots", "learning_rates"];

/// Test accuracies at one boundary with so many training images, by seed.
#[derive(Clone, Debug, Default)]
struct Point {
    boundary: usize,
    shots: usize,
    images: usize,
    accuracy: BTreeMap<u64, f64>,
}

fn run(request: &Request) -> Result<Outcome, Failure> {
    let (stem, mut document) = request.document()?;
    let own: Own = typed(taken(&mut document, &KEYS), &stem)?;
    check(&own)?;
    let whole = Frame::read(stem.clone(), document.clone())?;
    let ([backbone], [dataset]) = (
        &whole.comparison.backbones[..],
        &whole.comparison.datasets[..],
    ) else {
        return Err(config_error(
            "samples: expected one backbone and one data set",
        ));
    };
    let lacking = missing(
        std::slice::from_ref(backbone),
        std::slice::from_ref(dataset),
    )?;
    let subsets: Vec<Value> = own
        .shots
        .iter()
        .map(|shots| subset(&dataset.component, &dataset.label, *shots))
        .collect();
    if let Value::Mapping(map) = &mut document {
        map.insert("datasets".into(), Value::Sequence(subsets));
    }
    let frame = Frame::read(stem, document)?;
    let backbones = frame.backbones();
    let rates = Rates::read("learning_rates", &own.learning_rates, &backbones)?;
    let method = |boundary: &usize| Method {
        label: format!("ap {boundary}"),
        component: Value::Mapping(Mapping::from_iter([
            ("name".into(), "ap".into()),
            ("boundaries".into(), vec![Value::from(*boundary)].into()),
        ])),
        backbones: backbones.clone(),
        rates: rates.by_backbone().clone(),
        set: Mapping::new(),
    };
    let grid = frame.with(own.boundaries.iter().map(method).collect())?;
    let trainings = own.boundaries.len() * own.shots.len() * grid.comparison.seeds.len();
    let rates: usize = grid
        .methods
        .first()
        .map_or(0, |m| m.rates.values().map(Vec::len).sum());
    let plan = format!(
        "{} trainings: {} boundaries, {} numbers of images, {} seeds, {rates} learning rates.",
        trainings * rates,
        own.boundaries.len(),
        own.shots.len(),
        grid.comparison.seeds.len()
    );
    let mut points = Vec::new();
    let judged = match (&lacking, request.dry_run) {
        (_, true) => all(&[CLAIM], Verdict::Undecided, "a dry run trains nothing"),
        (Some(missing), _) => {
            let reason = format!("{missing}; with them, the same command decides");
            all(&[CLAIM], Verdict::NeedsData, &reason)
        }
        (None, false) => {
            let results = grid.carry_out(request)?;
            let found = rows(&grid, &results);
            for (entry, &shots) in grid.comparison.datasets.iter().zip(&own.shots) {
                let (config, _) = components::dataset(&entry.component)?;
                let images = config.open().at("dataset")?.len(Split::Train);
                for (method, &boundary) in grid.methods.iter().zip(&own.boundaries) {
                    let row = found
                        .iter()
                        .find(|row| row.dataset == entry.label && row.method == method.label);
                    points.push(Point {
                        boundary,
                        shots,
                        images,
                        accuracy: row.map(|row| row.test.clone()).unwrap_or_default(),
                    });
                }
            }
            vec![CLAIM.judged(verdict(&own.boundaries, &points, &grid.comparison.seeds))]
        }
    };
    let target = target(&points);
    let needed: Vec<(usize, Option<f64>)> = own
        .boundaries
        .iter()
        .map(|&boundary| {
            let curve = curve(&points, boundary, |point| mean_of(&point.accuracy));
            (
                boundary,
                target.and_then(|target| images_to(&curve, target)),
            )
        })
        .collect();
    let curves = points.iter().map(|point| {
        let accuracy: Vec<f64> = point.accuracy.values().copied().collect();
        json!({
            "boundary": point.boundary, "images": point.images, "shots": point.shots, "accuracy": accuracy,
        })
    });
    let to = needed
        .iter()
        .map(|(boundary, images)| json!({ "boundary": boundary, "images": images }));
    Ok(Outcome {
        claims: judged,
        result: json!({
            "curves": curves.collect::<Vec<_>>(),
            "images_to": to.collect::<Vec<_>>(),
            "accuracy": target,
        }),
        settings: settings(&own, &grid.comparison)?,
        tables: tables(&own, &points, &needed),
        figures: figures(&own, &points),
        notes: vec![
            plan,
            "The curves are made monotone in the number of images and are linear in its logarithm between two numbers. Images \
             are needed to reach 90 % of the best mean accuracy of the whole grid."
                .to_owned(),
        ],
    })
}

fn check(own: &Own) -> Result<(), Failure> {
    let ascending =
        |key: &str, values: &[usize]| match values.len() > 1 && values.is_sorted_by(|a, b| a < b) {
            true => Ok(()),
            false => Err(config_error(format!(
                "{key}: expected at least two numbers in ascending order, got {values:?}"
            ))),
        };
    ascending("boundaries", &own.boundaries)?;
    ascending("shots", &own.shots)?;
    match own.shots[0] {
        0 => Err(config_error("shots: expected at least 1, got 0")),
        _ => Ok(()),
    }
}

/// An entry for the data set with `shots` training images of each class.
fn subset(component: &Value, label: &str, shots: usize) -> Value {
    let mut fields = match component {
        Value::Mapping(map) => map.clone(),
        name => Mapping::from_iter([("extends".into(), name.clone())]),
    };
    fields.insert("shots".into(), shots.into());
    Value::Mapping(Mapping::from_iter([
        ("use".into(), Value::Mapping(fields)),
        ("label".into(), format!("{label} {shots} shots").into()),
    ]))
}

/// The accuracy that must be reached.
fn target(points: &[Point]) -> Option<f64> {
    let means = points.iter().filter_map(|point| mean_of(&point.accuracy));
    means.reduce(f64::max).map(|best| SHARE * best)
}

/// Images and accuracies at a boundary, in ascending order of images, made monotone by pooling neighbours
/// that fall.
fn curve(
    points: &[Point],
    boundary: usize,
    score: impl Fn(&Point) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let own = points.iter().filter(|point| point.boundary == boundary);
    let mut known: Vec<(f64, f64)> = own
        .filter_map(|point| Some((point.images as f64, score(point)?)))
        .collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (_, accuracy) in &known {
        let mut pool = (*accuracy, 1);
        while let Some(&(before, count)) = pools.last() {
            if before <= pool.0 {
                break;
            }
            let all = count + pool.1;
            pool = (
                (before * count as f64 + pool.0 * pool.1 as f64) / all as f64,
                all,
            );
            pools.pop();
        }
        pools.push(pool);
    }
    let levels = pools
        .iter()
        .flat_map(|(level, count)| std::iter::repeat_n(*level, *count));
    known
        .iter()
        .zip(levels)
        .map(|((images, _), level)| (*images, level))
        .collect()
}

/// The number of images at which a monotone curve reaches an accuracy; none if it never does.
fn images_to(curve: &[(f64, f64)], accuracy: f64) -> Option<f64> {
    let after = curve.iter().position(|(_, level)| *level >= accuracy)?;
    let (images, level) = curve[after];
    if level == accuracy {
        return Some(images);
    }
    let Some(&(before, low)) = after.checked_sub(1).and_then(|at| curve.get(at)) else {
        return Some(images);
    };
    let way = (accuracy - low) / (level - low);
    Some(2f64.powf(before.log2() + way * (images.log2() - before.log2())))
}

/// The median of a third of the boundaries, the lower one of two.
fn median(boundaries: &[usize]) -> usize {
    boundaries[(boundaries.len() - 1) / 2]
}

/// The number of images at the median boundary of the shallow third against that of the deep third, over
/// resampled seeds.
fn verdict(boundaries: &[usize], points: &[Point], seeds: &[u64]) -> (Verdict, String) {
    let third = (boundaries.len() / 3).max(1);
    let shallow = median(&boundaries[..third]);
    let deep = median(&boundaries[boundaries.len() - third..]);
    let Some(target) = target(points) else {
        return (Verdict::Undecided, "no training finished".to_owned());
    };
    let of = |boundary, score: &dyn Fn(&Point) -> Option<f64>| {
        images_to(&curve(points, boundary, score), target).unwrap_or(f64::INFINITY)
    };
    let whole = |point: &Point| mean_of(&point.accuracy);
    let words = |images: f64| match images.is_finite() {
        true => format!("{images:.0} images"),
        false => "more images than there are".to_owned(),
    };
    let text = format!(
        "to reach {:.2} %, boundary {shallow} needs {} and boundary {deep} {}",
        100.0 * target,
        words(of(shallow, &whole)),
        words(of(deep, &whole))
    );
    if seeds.len() < SEEDS {
        let text = format!(
            "{text}; {} seeds, and a verdict needs at least {SEEDS}",
            seeds.len()
        );
        return (Verdict::Undecided, text);
    }
    let mut generator = Generator::new(0, "samples");
    let (mut fewer, mut more) = (0usize, 0usize);
    for _ in 0..RESAMPLES {
        let drawn: Vec<u64> = seeds
            .iter()
            .map(|_| seeds[generator.below(seeds.len())])
            .collect();
        let score = |point: &Point| {
            let own: Option<Vec<f64>> = drawn
                .iter()
                .map(|seed| point.accuracy.get(seed).copied())
                .collect();
            mean(&own?)
        };
        let (a, b) = (of(shallow, &score), of(deep, &score));
        fewer += usize::from(a < b);
        more += usize::from(a > b);
    }
    let share = |count: usize| count as f64 / RESAMPLES as f64;
    let text = format!(
        "{text}; the shallow one needs fewer in {:.1} % of the resampled seeds and more in {:.1} %",
        100.0 * share(fewer),
        100.0 * share(more)
    );
    let verdict = match (share(fewer) >= DECIDES, share(more) >= DECIDES) {
        (true, _) => Verdict::Holds,
        (_, true) => Verdict::DoesNotHold,
        _ => Verdict::Undecided,
    };
    (verdict, text)
}

fn tables(
    own: &Own,
    points: &[Point],
    needed: &[(usize, Option<f64>)],
) -> Vec<crate::compare::tables::table::Table> {
    if points.is_empty() {
        return Vec::new();
    }
    let heads: Vec<String> = own
        .shots
        .iter()
        .map(|shots| format!("{shots} shots"))
        .collect();
    let mut heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    heads.push("images needed");
    let rows = needed.iter().map(|(boundary, images)| {
        let cell = |shots: &usize| {
            let point = points
                .iter()
                .find(|p| (p.boundary, p.shots) == (*boundary, *shots));
            let accuracy = point.map(|point| &point.accuracy);
            percent(accuracy.and_then(mean_of), accuracy.and_then(deviation_of))
        };
        let mut entries: Vec<_> = own.shots.iter().map(cell).collect();
        entries.push(number(*images));
        (boundary.to_string(), entries)
    });
    vec![numbers(
        "Test accuracy in %",
        "boundary",
        &heads,
        rows.collect(),
    )]
}

/// Accuracy against the boundary, a curve for each number of images, as the paper draws it.
fn figures(own: &Own, points: &[Point]) -> Vec<String> {
    let line = |shots: &usize| {
        let of = points.iter().filter(|point| point.shots == *shots);
        let known: Vec<&Point> = of.filter(|point| !point.accuracy.is_empty()).collect();
        let at = known
            .iter()
            .filter_map(|point| Some((point.boundary as f64, 100.0 * mean_of(&point.accuracy)?)));
        let spread = known
            .iter()
            .map(|point| 100.0 * deviation_of(&point.accuracy).unwrap_or(0.0));
        Line {
            spread: spread.collect(),
            ..Line::new(format!("{shots} shots"), at)
        }
    };
    let lines: Vec<Line> = own.shots.iter().map(line).collect();
    let plot = Lines {
        title: "test accuracy in %",
        x: "boundary b; paper: layer b - 1 (Sec. 3), b (Sec. 5.1)",
        scale: Scale::Whole,
        lines: &lines,
    };
    vec![plot.svg()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_off_a_monotone_curve() {
        let point = |images, accuracy: f64| Point {
            boundary: 1,
            images,
            accuracy: [(0, accuracy)].into(),
            ..Point::default()
        };
        let points = [
            point(10, 0.2),
            point(20, 0.5),
            point(40, 0.4),
            point(80, 0.8),
        ];
        let curve = curve(&points, 1, |point| mean_of(&point.accuracy));
        let levels: Vec<f64> = curve.iter().map(|(_, level)| *level).collect();
        assert_eq!(levels, [0.2, 0.45, 0.45, 0.8]);
        assert_eq!(images_to(&curve, 0.1), Some(10.0));
        assert_eq!(images_to(&curve, 0.8), Some(80.0));
        assert_eq!(images_to(&curve, 0.9), None);
        let halfway = images_to(&curve, 0.625).unwrap();
        assert!((halfway - 3200f64.sqrt()).abs() < 1e-9, "{halfway}");
    }

    #[test]
    fn a_boundary_that_needs_fewer_images_with_every_seed_decides() {
        let grid = |shallow: f64, deep: f64| -> Vec<Point> {
            let point = |boundary, images, level: f64| Point {
                boundary,
                images,
                shots: images,
                accuracy: (0..3)
                    .map(|seed| (seed, level + 0.001 * seed as f64))
                    .collect(),
            };
            vec![
                point(1, 10, shallow),
                point(1, 100, 0.9),
                point(7, 10, deep),
                point(7, 100, 0.9),
            ]
        };
        let of = |shallow, deep| verdict(&[1, 7], &grid(shallow, deep), &[0, 1, 2]).0;
        assert_eq!(of(0.8, 0.3), Verdict::Holds);
        assert_eq!(of(0.3, 0.8), Verdict::DoesNotHold);
        assert_eq!(of(0.5, 0.5), Verdict::Undecided);
        let few = verdict(&[1, 7], &grid(0.8, 0.3), &[0, 1]);
        assert!(few.1.contains("at least 3"), "{}", few.1);
    }
}
