//! Fig. 5B: how far the heads of a Vision Transformer look, layer by layer.

mod distance;
mod settings;
mod weights;

use serde_json::json;

use self::settings::{CLAIM, Found, Settings};
use crate::exit::{Failure, config_error};
use crate::study::Study;
use crate::study::claim::{Judged, Verdict, all};
use crate::study::figure::heat::Heat;
use crate::study::figure::lines::{Line, Lines, Scale};
use crate::study::outcome::{Outcome, json};
use crate::study::request::Request;
use crate::study::statistics::spearman;
use crate::study::table::{number, numbers};
use crate::study::trained::pretrainings::pretrained_twice;
use crate::study::trained::together;
use distance::{Layer, Quantity};

pub const STUDY: Study = Study {
    name: "attention-distance",
    summary: "how far the heads of a Vision Transformer look, layer by layer",
    source: "Fig. 5B, Sec. 4.1, 4.2",
    files: &["attention"],
    config: Some("study/attention-distance-micro.yaml"),
    run,
};

const QUANTITIES: [(&str, Quantity); 5] = [
    ("pixels", |layer| &layer.pixels),
    ("renormalised", |layer| &layer.renormalised),
    ("prefix_mass", |layer| &layer.prefix_mass),
    ("argmax_tokens", |layer| &layer.argmax_tokens),
    ("argmax_pixels", |layer| &layer.argmax_pixels),
];

fn run(request: &Request) -> Result<Outcome, Failure> {
    let settings: Settings = request.settings()?;
    if let Some(path) = &request.files.attention {
        let found = weights::of_file(path, &settings)?;
        let claims = all(&[CLAIM], Verdict::None, "raw tensors were given");
        return outcome(&settings, claims, &found);
    }
    if settings.grid.is_some() || settings.patch.is_some() || settings.prefix > 0 {
        let message = "grid, patch and prefix describe a file of weights; expected --attention";
        return Err(config_error(message));
    }
    let networks = settings.networks();
    let networks = networks.iter().map(weights::Network::read);
    let networks = networks.collect::<Result<Vec<_>, Failure>>()?;
    if request.dry_run {
        let plans = networks.iter().map(|network| network.plan(&settings));
        return Ok(Outcome::joined(plans.collect::<Result<_, Failure>>()?));
    }
    if let Some(missing) = networks.iter().find_map(|network| network.missing()) {
        let reason = format!("{missing}; with them, the same command decides");
        return Ok(Outcome {
            claims: all(&[CLAIM], Verdict::NeedsData, &reason),
            result: json!({ "layers": [], "uniform_pixels": null }),
            settings: json(&settings)?,
            ..Outcome::default()
        });
    }
    let (mut outcomes, mut each) = (Vec::new(), Vec::new());
    for network in &networks {
        let found = network.distances(&settings, request)?;
        outcomes.push(outcome(&settings, Vec::new(), &found)?);
        each.push((network.title.clone(), verdict(&found.layers)));
    }
    let bundled = networks.iter().filter(|network| network.is_bundled());
    let bundled = bundled.map(|network| network.title.as_str()).collect();
    let judgement = pretrained_twice(&bundled, together(each));
    Ok(Outcome {
        claims: vec![CLAIM.judged(judgement)],
        ..Outcome::joined(outcomes)
    })
}

/// Whether the mean of heads falls over the first half of the layers, and is higher in the last third than
/// between. Both the renormalised distance and the paper's definition must say so.
fn verdict(layers: &[Layer]) -> (Verdict, String) {
    let readings: [(&str, Quantity); 2] = [
        ("renormalised", |layer| &layer.renormalised),
        ("argmax_tokens", |layer| &layer.argmax_tokens),
    ];
    let depth = layers.len();
    let (half, last) = (depth / 2, depth - depth / 3);
    let mut verdicts = Vec::new();
    let mut texts = Vec::new();
    for (name, of) in readings {
        let means: Vec<f64> = layers.iter().map(|layer| layer.mean(of)).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let Some((rho, p)) = spearman(&means[..half]) else {
            let text = format!("{depth} layers are too few for a trend over the first half");
            return (Verdict::Undecided, text);
        };
        let (between, end) = (mean(&means[half..last]), mean(&means[last..]));
        let falls = rho < 0.0 && p < 0.05;
        verdicts.push(falls && end > between);
        texts.push(format!(
            "{name}: rank correlation with depth over layers 1 to {half} {rho:+.2} (p = {p:.3}), mean {between:.2} over \
             layers {} to {last} and {end:.2} after them",
            half + 1
        ));
    }
    let verdict = match verdicts[..] {
        [true, true] => Verdict::Holds,
        [false, false] => Verdict::DoesNotHold,
        _ => Verdict::Undecided,
    };
    (verdict, texts.join("; "))
}

fn outcome(settings: &Settings, claims: Vec<Judged>, found: &Found) -> Result<Outcome, Failure> {
    let rows = found.layers.iter().map(|layer| {
        let means = QUANTITIES
            .iter()
            .map(|(_, of)| number(Some(layer.mean(*of))));
        (layer.layer.to_string(), means.collect())
    });
    let names: Vec<&str> = QUANTITIES.iter().map(|(name, _)| *name).collect();
    let title = format!("Means over heads, {}", found.title);
    let table = numbers(title, "layer", &names, rows.collect());
    let mut notes = vec![format!(
        "{} images through {}. Uniform attention has a distance of {:.2} pixels. Raghu et al. (2021) and Walmer et al. (2023), \
         whom the paper follows, report that the mean distance grows with depth.",
        found.images, found.title, found.uniform
    )];
    if found.windows {
        notes.push(
            "Tokens attend within windows: distances are those within a window, on the shifted grid where a block shifts its \
             windows."
                .to_owned(),
        );
    }
    let mut figures = Vec::new();
    for (title, of) in [
        ("attention distance in pixels", QUANTITIES[0].1),
        ("distance of the largest weight in tokens", QUANTITIES[3].1),
    ] {
        let title = format!("{title}, {}", found.title);
        figures.push(heat(found, &title, of));
        figures.push(means(found, &title, of));
    }
    Ok(Outcome {
        claims,
        result: json!({ "layers": found.layers, "uniform_pixels": found.uniform }),
        settings: json(settings)?,
        tables: vec![table],
        figures,
        notes,
    })
}

/// Heads sorted by distance within each layer, as Fig. 5B draws them.
fn heat(found: &Found, title: &str, of: Quantity) -> String {
    let sorted: Vec<Vec<f64>> = found
        .layers
        .iter()
        .map(|layer| {
            let mut heads = of(layer).to_vec();
            heads.sort_by(f64::total_cmp);
            heads
        })
        .collect();
    let most = sorted.iter().map(Vec::len).max().unwrap_or(0);
    let cells: Vec<Vec<Option<f64>>> = (0..most)
        .map(|head| {
            sorted
                .iter()
                .map(|heads| heads.get(head).copied())
                .collect()
        })
        .collect();
    let rows: Vec<String> = (1..=most).map(|head| head.to_string()).collect();
    let columns: Vec<String> = found
        .layers
        .iter()
        .map(|layer| layer.layer.to_string())
        .collect();
    let heat = Heat {
        title,
        x: "layer",
        y: "heads sorted by distance",
        columns: &columns,
        rows: &rows,
        cells: &cells,
    };
    heat.svg()
}

fn means(found: &Found, title: &str, of: Quantity) -> String {
    let mean = found
        .layers
        .iter()
        .map(|layer| (layer.layer as f64, layer.mean(of)));
    let ends = |end: fn(f64, f64) -> f64| {
        found.layers.iter().map(move |layer| {
            let end = of(layer).iter().copied().reduce(end);
            (layer.layer as f64, end.unwrap_or(f64::NAN))
        })
    };
    let lines = [
        Line::new("mean of heads", mean),
        Line::new("farthest head", ends(f64::max)),
        Line::new("nearest head", ends(f64::min)),
    ];
    let plot = Lines {
        title,
        x: "layer",
        scale: Scale::Whole,
        lines: &lines,
    };
    plot.svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(means: &[f64]) -> Vec<Layer> {
        let layer = |(index, mean): (usize, &f64)| Layer {
            layer: index + 1,
            pixels: vec![*mean],
            renormalised: vec![*mean],
            prefix_mass: vec![0.0],
            argmax_tokens: vec![*mean],
            argmax_pixels: vec![*mean],
        };
        means.iter().enumerate().map(layer).collect()
    }

    #[test]
    fn a_fall_and_a_rise_hold_and_a_rise_alone_does_not() {
        let falls: Vec<f64> = (0..24).map(|l| (f64::from(l) - 13.0).abs()).collect();
        assert_eq!(verdict(&layers(&falls)).0, Verdict::Holds);
        let rises: Vec<f64> = (0..24).map(f64::from).collect();
        assert_eq!(verdict(&layers(&rises)).0, Verdict::DoesNotHold);
        let mut mixed = layers(&falls);
        for layer in &mut mixed {
            layer.argmax_tokens = vec![layer.layer as f64];
        }
        assert_eq!(verdict(&mixed).0, Verdict::Undecided);
    }
}
