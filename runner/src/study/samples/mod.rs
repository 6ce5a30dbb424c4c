//! Fig. 6: how many training images an activation prompt needs, by the boundary at which it acts.

mod curve;

use peft_core::Split;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_yaml::{Mapping, Value};

use self::curve::{Point, curve, images_to, target, verdict};
use crate::compare::config::BackboneEntry;
use crate::compare::tables::table::Table;
use crate::data::subset;
use crate::exit::{At, Failure, config_error};
use crate::study::Study;
use crate::study::claim::{Claim, Verdict, all};
use crate::study::components;
use crate::study::figure::lines::{Line, Lines, Scale};
use crate::study::outcome::Outcome;
use crate::study::request::{Request, taken, typed};
use crate::study::table::{number, numbers, percent};
use crate::study::trained::pretrainings::of_pretrainings;
use crate::study::trained::rows::{Row, deviation_of, mean_of, rows};
use crate::study::trained::{Frame, Grid, Method, Rates, missing, settings, together};

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

fn run(request: &Request) -> Result<Outcome, Failure> {
    let (stem, mut document) = request.document()?;
    let own: Own = typed(taken(&mut document, &KEYS), &stem)?;
    check(&own)?;
    let whole = Frame::read(stem.clone(), document.clone())?;
    let [dataset] = &whole.comparison.datasets[..] else {
        return Err(config_error("samples: expected one data set"));
    };
    let lacking = missing(&whole.comparison.backbones, std::slice::from_ref(dataset))?;
    let subsets: Vec<Value> = own
        .shots
        .iter()
        .map(|shots| with_shots(&dataset.component, &dataset.label, *shots))
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
    let mut curves = Vec::new();
    let judged = match (&lacking, request.dry_run) {
        (_, true) => all(&[CLAIM], Verdict::Undecided, "a dry run trains nothing"),
        (Some(missing), _) => {
            let reason = format!("{missing}; with them, the same command decides");
            all(&[CLAIM], Verdict::NeedsData, &reason)
        }
        (None, false) => {
            curves = of_backbones(&grid, &own, &rows(&grid, &grid.carry_out(request)?))?;
            let each = curves.iter().map(
                |Curves {
                     backbone, points, ..
                 }| {
                    let seeds = &grid.comparison.seeds;
                    (backbone.clone(), verdict(&own.boundaries, points, seeds))
                },
            );
            let judgement = together(each.collect());
            vec![CLAIM.judged(of_pretrainings(&grid.skeletons()?, judgement))]
        }
    };
    let points = curves.iter().flat_map(|curves| {
        curves.points.iter().map(|point| {
            let accuracy: Vec<f64> = point.accuracy.values().copied().collect();
            json!({
                "backbone": curves.backbone, "boundary": point.boundary, "images": point.images, "shots": point.shots,
                "accuracy": accuracy,
            })
        })
    });
    let needed = curves.iter().flat_map(|curves| {
        curves.needed.iter().map(|(boundary, images)| {
            json!({
                "backbone": curves.backbone, "boundary": boundary, "images": images, "accuracy": curves.target,
            })
        })
    });
    Ok(Outcome {
        claims: judged,
        result: json!({
            "curves": points.collect::<Vec<_>>(),
            "images_to": needed.collect::<Vec<_>>(),
        }),
        settings: settings(&own, &grid.comparison)?,
        tables: curves.iter().map(|curves| table(&own, curves)).collect(),
        figures: curves.iter().map(|curves| figure(&own, curves)).collect(),
        notes: vec![
            grid.work()?.sentence(),
            "The curves are made monotone in the number of images and are linear in its logarithm between two numbers. Images \
             are needed to reach 90 % of the best mean accuracy of the whole grid of a backbone."
                .to_owned(),
        ],
    })
}

/// The accuracies on a backbone, and how many images they take.
struct Curves {
    backbone: String,
    points: Vec<Point>,
    /// The accuracy that must be reached.
    target: Option<f64>,
    /// Boundaries with the images that reach it.
    needed: Vec<(usize, Option<f64>)>,
}

fn of_backbones(grid: &Grid, own: &Own, found: &[Row]) -> Result<Vec<Curves>, Failure> {
    let mut images = Vec::new();
    for entry in &grid.comparison.datasets {
        let (config, _) = components::dataset(&entry.component)?;
        // Every seed draws other images, but as many.
        let drawn = subset::open(&*config, 0).at("dataset")?;
        images.push(drawn.len(Split::Train));
    }
    let on = |backbone: &BackboneEntry| {
        let mut points = Vec::new();
        for (method, &boundary) in grid.methods.iter().zip(&own.boundaries) {
            for (at, entry) in grid.comparison.datasets.iter().enumerate() {
                let place = (&backbone.label, &entry.label, &method.label);
                let of = |row: &&Row| (&row.backbone, &row.dataset, &row.method) == place;
                let row = found.iter().find(of);
                points.push(Point {
                    boundary,
                    shots: own.shots[at],
                    images: images[at],
                    accuracy: row.map(|row| row.test.clone()).unwrap_or_default(),
                });
            }
        }
        let target = target(&points);
        let needs = |boundary: &usize| {
            let curve = curve(&points, *boundary, |point| mean_of(&point.accuracy));
            let images = target.and_then(|target| images_to(&curve, target));
            (*boundary, images)
        };
        Curves {
            backbone: backbone.label.clone(),
            needed: own.boundaries.iter().map(needs).collect(),
            target,
            points,
        }
    };
    Ok(grid.comparison.backbones.iter().map(on).collect())
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
fn with_shots(component: &Value, label: &str, shots: usize) -> Value {
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

fn table(own: &Own, curves: &Curves) -> Table {
    let heads: Vec<String> = own
        .shots
        .iter()
        .map(|shots| format!("{shots} shots"))
        .collect();
    let mut heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    heads.push("images needed");
    let rows = curves.needed.iter().map(|(boundary, images)| {
        let points = curves.points.iter();
        let points = points.filter(|point| point.boundary == *boundary);
        let cell = |point: &Point| {
            let accuracy = &point.accuracy;
            percent(mean_of(accuracy), deviation_of(accuracy))
        };
        let mut entries: Vec<_> = points.map(cell).collect();
        entries.push(number(*images));
        (boundary.to_string(), entries)
    });
    let title = format!("Test accuracy in %, {}", curves.backbone);
    numbers(title, "boundary", &heads, rows.collect())
}

/// Accuracy against the boundary, a curve for each number of images, as the paper draws it.
fn figure(own: &Own, curves: &Curves) -> String {
    let line = |shots: &usize| {
        let of = curves.points.iter().filter(|point| point.shots == *shots);
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
        title: &format!("test accuracy in %, {}", curves.backbone),
        x: "boundary b; paper: layer b - 1 (Sec. 3), b (Sec. 5.1)",
        scale: Scale::Whole,
        lines: &lines,
    };
    plot.svg()
}
