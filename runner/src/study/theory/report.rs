//! Verdicts, tables and figures about Theorem 1 and Lemma 1.

use serde_json::{Value, json};

use super::flow::Flow;
use super::lemma::Distances;
use super::model::Layer;
use super::settings::{CLAIMS, EXPONENT, Exponent, Lemma, Settings};
use super::sgd::Run;
use crate::compare::statistics::moments::mean;
use crate::compare::tables::table::Entry;
use crate::exit::Failure;
use crate::study::claim::{Judged, Verdict, all};
use crate::study::figure::lines::{Line, Lines, Scale};
use crate::study::outcome::{Outcome, json};
use crate::study::table::{count, number, numbers};

/// A reading of zero generalisation error: its name, its time and its exponent.
type Reading = (
    &'static str,
    fn(&Flow) -> Option<f64>,
    fn(&Exponent) -> Option<f64>,
);

/// The two readings of zero generalisation error.
const READINGS: [Reading; 2] = [
    ("hinge", |flow| flow.hinge, |exponent| exponent.hinge),
    (
        "zero_one",
        |flow| flow.zero_one,
        |exponent| exponent.zero_one,
    ),
];

/// The plan of the study.
pub fn plan(settings: &Settings) -> Result<Outcome, Failure> {
    let rows = settings.patches.iter().flat_map(|tokens| {
        Layer::BOTH.map(|layer| {
            json!({ "P": tokens, "layer": layer.number(), "hinge": null, "zero_one": null, "delta_norm": null,
                    "steps": null })
        })
    });
    Ok(Outcome {
        claims: all(&CLAIMS, Verdict::Undecided, "a dry run computes nothing"),
        result: json!({ "flow": rows.collect::<Vec<Value>>(), "exponents": [], "lemma1": [] }),
        settings: json(settings)?,
        notes: vec![format!(
            "No training: the flow is integrated for {} numbers of tokens at both layers, in about a second.",
            settings.patches.len()
        )],
        ..Outcome::default()
    })
}

/// The outcome of the study.
pub fn outcome(
    settings: &Settings,
    flows: &[Flow],
    exponents: &[Vec<Exponent>; 2],
    lemma: &Lemma,
    runs: &[Run],
) -> Result<Outcome, Failure> {
    let mut claims = vec![CLAIMS[0].judged(order(flows))];
    for (claim, exponents) in CLAIMS[1..3].iter().zip(exponents) {
        for (reading, _, exponent) in READINGS {
            claims.push(claim.reading(reading, rate(exponents, exponent)));
        }
    }
    claims.extend(lemma_verdicts(lemma));
    let others = lemma.others.iter().map(|(reading, distances)| {
        let mut row = json!(distances);
        row["reading"] = json!(reading);
        row
    });
    let all_exponents: Vec<&Exponent> = exponents.iter().flatten().collect();
    let mut tables = vec![flow_table(flows), exponent_table(&all_exponents)];
    tables.extend(lemma_tables(lemma));
    let mut notes = notes(settings);
    if !runs.is_empty() {
        tables.push(run_table(runs));
        notes.push(
            "Stochastic gradient descent: 8 fresh samples a step with noise, learning rate 2 a token, until P times the \
             hinge risk on 256 other samples is at most 0.1. With a finite training set and several epochs both layers \
             need about the same number of samples: the theorem counts iterations."
                .to_owned(),
        );
    }
    Ok(Outcome {
        claims,
        result: json!({
            "flow": flows,
            "exponents": all_exponents,
            "lemma1": lemma.rows,
            "lemma1_readings": others.collect::<Vec<_>>(),
            "sgd": runs,
        }),
        settings: json(settings)?,
        tables,
        figures: figures(flows),
        notes,
    })
}

/// Whether layer 1 arrives first for every number of tokens and in both readings.
fn order(flows: &[Flow]) -> (Verdict, String) {
    let mut least = f64::INFINITY;
    for first in flows.iter().filter(|flow| flow.layer == 1) {
        let second = flows
            .iter()
            .find(|f| f.layer == 2 && f.tokens == first.tokens);
        for (reading, time, _) in READINGS {
            let (Some(one), Some(two)) = (time(first), second.and_then(time)) else {
                let text = format!(
                    "P = {}: a layer does not reach zero {reading} risk",
                    first.tokens
                );
                return (Verdict::Undecided, text);
            };
            least = least.min(two / one);
        }
    }
    let text = format!(
        "layer 2 takes at least {least:.2} times as long as layer 1, over all P and both readings of zero error"
    );
    (Verdict::of(least > 1.0), text)
}

/// Whether the last exponent is that of the claimed rate.
fn rate(exponents: &[Exponent], of: fn(&Exponent) -> Option<f64>) -> (Verdict, String) {
    let Some(last) = exponents.last() else {
        return (
            Verdict::Undecided,
            "a rate needs two numbers of tokens".to_owned(),
        );
    };
    let Some(found) = of(last) else {
        return (Verdict::Undecided, "the flow does not arrive".to_owned());
    };
    let [from, to] = last.tokens;
    let text = format!(
        "the exponent from P = {from} to {to} is {found:.2}, that of the claimed rate {:.2}; they agree within {EXPONENT}",
        last.claimed
    );
    let agrees = (found - last.claimed).abs() <= EXPONENT;
    let text = if agrees {
        text
    } else {
        text.replace("they agree within", "they differ by more than")
    };
    (Verdict::of(agrees), text)
}

fn lemma_verdicts(lemma: &Lemma) -> [Judged; 2] {
    let claim = &CLAIMS[3];
    let near = |value: f64, expected: f64| (value - expected).abs() < 1e-9;
    let of = |noise: bool| {
        let mut rows = lemma.rows.iter().filter(|row| row.noise == noise);
        rows.all(|row| near(row.layer1, 1.0 + row.swap as f64) && near(row.layer2, 1.0))
    };
    if lemma.rows.is_empty() {
        let none = (
            Verdict::Undecided,
            "no distance fits into the sequences".to_owned(),
        );
        return [claim.judged(none.clone()), claim.reading("noise", none)];
    }
    let plain = match of(false) {
        true => {
            "without noise P times the distance is 1 + d_A in layer 1 and 1 in layer 2, where of equal scores the \
                 nearest key counts; it is another where the first of them counts, or the keys are not swapped"
        }
        false => "P times the distance is not 1 + d_A and 1",
    };
    let noise = match of(true) {
        true => "with noise the distances are the same",
        false => "with noise of 0.1 / P the distance is about P / 3 in both layers: nothing falls",
    };
    [
        claim.judged((Verdict::of(of(false)), plain.to_owned())),
        claim.reading("noise", (Verdict::of(of(true)), noise.to_owned())),
    ]
}

fn flow_table(flows: &[Flow]) -> crate::compare::tables::table::Table {
    let rows = flows.iter().map(|flow| {
        let entries = vec![
            count(flow.layer as u64),
            number(flow.hinge),
            number(flow.zero_one),
            number(Some(flow.delta_norm)),
            count(flow.steps as u64),
        ];
        (flow.tokens.to_string(), entries)
    });
    let columns = ["layer", "hinge", "zero-one", "|delta|", "steps"];
    numbers(
        "Learning rate times iterations until the error is zero",
        "P",
        &columns,
        rows.collect(),
    )
}

fn exponent_table(exponents: &[&Exponent]) -> crate::compare::tables::table::Table {
    let rows = exponents.iter().map(|exponent| {
        let entries = vec![
            count(exponent.layer as u64),
            number(exponent.hinge),
            number(exponent.zero_one),
            number(Some(exponent.claimed)),
        ];
        let [from, to] = exponent.tokens;
        (format!("{from} to {to}"), entries)
    });
    let columns = ["layer", "hinge", "zero-one", "claimed"];
    numbers(
        "Growth of that time as a power of P",
        "P",
        &columns,
        rows.collect(),
    )
}

fn lemma_tables(lemma: &Lemma) -> Vec<crate::compare::tables::table::Table> {
    let entries = |row: &Distances| -> Vec<Entry> {
        vec![
            count(row.swap as u64),
            number(Some(row.layer1)),
            number(Some(row.layer2)),
        ]
    };
    let own = lemma.rows.iter().map(|row| {
        let noise = if row.noise { ", noise" } else { "" };
        (format!("{}{noise}", row.tokens), entries(row))
    });
    let others = lemma
        .others
        .iter()
        .map(|(reading, row)| (format!("{}, {reading}", row.tokens), entries(row)));
    let columns = ["d_A", "layer 1", "layer 2"];
    vec![
        numbers(
            "Lemma 1: P times the average attention distance",
            "P",
            &columns,
            own.collect(),
        ),
        numbers(
            "The same under other readings of its setting",
            "P",
            &columns,
            others.collect(),
        ),
    ]
}

fn run_table(runs: &[Run]) -> crate::compare::tables::table::Table {
    let mut rows: Vec<(String, Vec<Entry>)> = Vec::new();
    let mut keys: Vec<(usize, usize)> = runs.iter().map(|run| (run.tokens, run.layer)).collect();
    keys.dedup();
    for (tokens, layer) in keys {
        let own = runs
            .iter()
            .filter(|run| (run.tokens, run.layer) == (tokens, layer));
        let own: Option<Vec<f64>> = own.map(|run| run.iterations.map(|n| n as f64)).collect();
        let own = own.unwrap_or_default();
        let ends = (
            own.iter().copied().reduce(f64::min),
            own.iter().copied().reduce(f64::max),
        );
        let entries = vec![
            count(layer as u64),
            number(mean(&own)),
            number(ends.0),
            number(ends.1),
        ];
        rows.push((tokens.to_string(), entries));
    }
    let columns = ["layer", "mean", "least", "most"];
    numbers(
        "Iterations of stochastic gradient descent",
        "P",
        &columns,
        rows,
    )
}

fn notes(settings: &Settings) -> Vec<String> {
    let mut notes = vec![
        "Zero generalisation error has two readings: hinge is the time until the hinge risk is 0, zero-one the time until \
         every sample is on the right side."
            .to_owned(),
    ];
    let beyond = settings
        .patches
        .iter()
        .filter(|p| settings.beta_sq[0] >= (**p as f64 - 1.0).ln());
    let beyond: Vec<String> = beyond.map(usize::to_string).collect();
    if !beyond.is_empty() {
        notes.push(format!(
            "Lemma 1 assumes beta_1^2 < log(P - 1), which P = {} does not satisfy.",
            beyond.join(", ")
        ));
    }
    notes
}

fn figures(flows: &[Flow]) -> Vec<String> {
    let of = |layer: usize, value: fn(&Flow) -> Option<f64>| {
        let own = flows.iter().filter(move |flow| flow.layer == layer);
        own.filter_map(move |flow| Some((flow.tokens as f64, value(flow)?)))
    };
    let mut times = Vec::new();
    for layer in [1, 2] {
        for (reading, value, _) in READINGS {
            // The full words would not fit beside the plot.
            let name = format!("{layer}, {}", reading.replace('_', "-"));
            times.push(Line::new(name, of(layer, value)));
        }
    }
    let lengths = [1, 2].map(|layer| {
        Line::new(
            format!("layer {layer}"),
            of(layer, |flow| Some(flow.delta_norm)),
        )
    });
    let plot = |title, lines: &[Line]| {
        let plot = Lines {
            title,
            x: "tokens P",
            scale: Scale::Logarithmic,
            lines,
        };
        plot.svg()
    };
    vec![
        plot("learning rate times iterations, by layer", &times),
        plot("length of the prompt at the end", &lengths),
    ]
}
