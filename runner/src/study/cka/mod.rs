//! Fig. 5A: the linear CKA between the layers of two networks.

mod files;
mod networks;
mod settings;
mod similarity;

use serde_json::json;

use self::settings::{CLAIM, Layers, Settings, Side, Similarity};
use crate::exit::{Failure, config_error};
use crate::study::Study;
use crate::study::claim::{Verdict, all};
use crate::study::figure::heat::Heat;
use crate::study::outcome::{Outcome, json};
use crate::study::request::Request;
use crate::study::table::{number, numbers};
use crate::study::trained::pretrainings::pretrained_twice;
use crate::study::trained::together;

pub const STUDY: Study = Study {
    name: "cka",
    summary: "how similar the layers of two networks are, by linear CKA",
    source: "Fig. 5A, Sec. 4.1",
    files: &["features"],
    config: Some("study/cka-micro.yaml"),
    run,
};

/// A warning about the biased form.
const BIASED: &str = "The plain CKA is biased: it is near 1 for unrelated features where there are fewer images than \
                      features (16 images and 512 features: 0.97, where the minibatch CKA is -0.03). No verdict rests on it.";

fn run(request: &Request) -> Result<Outcome, Failure> {
    let settings: Settings = request.settings()?;
    if let Some(batch) = settings.batch.filter(|batch| *batch < similarity::LEAST) {
        let least = similarity::LEAST;
        return Err(config_error(format!(
            "batch: expected at least {least}, got {batch}"
        )));
    }
    if !request.files.features.is_empty() {
        let found = files::similarity(&request.files.features, settings.batch)?;
        let claims = all(&[CLAIM], Verdict::None, "raw tensors were given");
        return outcome(&settings, claims, &found);
    }
    let pairs = settings.pairs();
    let networks = pairs.iter().map(networks::Networks::read);
    let networks = networks.collect::<Result<Vec<_>, Failure>>()?;
    if request.dry_run {
        let plans = networks.iter().map(|networks| networks.plan(&settings));
        return Ok(Outcome::joined(plans.collect::<Result<_, Failure>>()?));
    }
    if let Some(missing) = networks.iter().find_map(|networks| networks.missing()) {
        let reason = format!("{missing}; with them, the same command decides");
        return Ok(Outcome {
            claims: all(&[CLAIM], Verdict::NeedsData, &reason),
            result: json!({ "a": [], "b": [], "cka": [], "plain": null, "batch": settings.batch, "images_used": 0 }),
            settings: json(&settings)?,
            ..Outcome::default()
        });
    }
    let (mut outcomes, mut each) = (Vec::new(), Vec::new());
    for networks in &networks {
        let found = networks.similarity(&settings, request)?;
        outcomes.push(outcome(&settings, Vec::new(), &found)?);
        each.push((networks.title(), verdict(&found)));
    }
    let titles: Vec<String> = each.iter().map(|(title, _)| title.clone()).collect();
    let bundled = titles.iter().zip(&networks);
    let bundled = bundled.filter(|(_, networks)| networks.are_bundled());
    let bundled = bundled.map(|(title, _)| title.as_str()).collect();
    let judgement = pretrained_twice(&bundled, together(each));
    Ok(Outcome {
        claims: vec![CLAIM.judged(judgement)],
        ..Outcome::joined(outcomes)
    })
}

/// For the last third of the CNN's boundaries: whether the boundary of the ViT with the largest CKA lies
/// between a third and two thirds of its depth, for most of them.
fn verdict(found: &Similarity) -> (Verdict, String) {
    let [a, b] = &found.sides;
    let turned = match (a.kind, b.kind) {
        (Some(Layers::Maps), Some(Layers::Tokens)) => false,
        (Some(Layers::Tokens), Some(Layers::Maps)) => true,
        _ => {
            let text = "the claim is about a convolutional network and a ViT";
            return (Verdict::None, text.to_owned());
        }
    };
    let (cnn, vit) = if turned { (b, a) } else { (a, b) };
    let cell = |of_cnn: usize, of_vit: usize| match turned {
        true => found.cka[of_vit][of_cnn],
        false => found.cka[of_cnn][of_vit],
    };
    let count = cnn.names.len();
    let deep = count - count / 3..count;
    let third = vit.depth as f64 / 3.0;
    let mut nearest = Vec::new();
    for of_cnn in deep.clone() {
        let known = (0..vit.names.len()).filter_map(|of_vit| Some((cell(of_cnn, of_vit)?, of_vit)));
        let best = known.max_by(|x, y| x.0.total_cmp(&y.0).then(y.1.cmp(&x.1)));
        nearest.extend(best.map(|(_, of_vit)| of_vit));
    }
    let middle = nearest
        .iter()
        .filter(|at| (third..=2.0 * third).contains(&(**at as f64)));
    let middle = middle.count();
    let places: Vec<String> = nearest.iter().map(usize::to_string).collect();
    let text = format!(
        "for boundaries {} to {} of {} the most similar boundaries of {} are {}: {middle} of {} lie between {third:.1} and \
         {:.1}",
        deep.start,
        count - 1,
        cnn.title,
        vit.title,
        places.join(", "),
        nearest.len(),
        2.0 * third,
    );
    (Verdict::of(2 * middle > nearest.len()), text)
}

fn outcome(
    settings: &Settings,
    claims: Vec<crate::study::claim::Judged>,
    found: &Similarity,
) -> Result<Outcome, Failure> {
    let [a, b] = &found.sides;
    let heat = |title: &str, cells: &[Vec<Option<f64>>]| {
        let short = |side: &Side| -> Vec<String> {
            let last = |name: &String| name.rsplit('.').next().unwrap_or(name).to_owned();
            side.names.iter().map(last).collect()
        };
        let (rows, columns) = (short(a), short(b));
        let heat = Heat {
            title,
            x: &format!("boundary of {}", b.title),
            y: &a.title,
            columns: &columns,
            rows: &rows,
            cells,
        };
        heat.svg()
    };
    let table = |title: &str, cells: &[Vec<Option<f64>>]| {
        let rows = a.names.iter().zip(cells);
        let rows = rows.map(|(name, row)| (name.clone(), row.iter().map(|v| number(*v)).collect()));
        let columns: Vec<&str> = b.names.iter().map(String::as_str).collect();
        numbers(title, "", &columns, rows.collect())
    };
    let of_both = format!("linear CKA, {} and {}", a.title, b.title);
    let mut figures = vec![heat(&of_both, &found.cka)];
    let mut tables = vec![table(
        &format!(
            "Linear CKA, unbiased, over batches, {} and {}",
            a.title, b.title
        ),
        &found.cka,
    )];
    let mut notes = vec![format!(
        "{} images in batches of {}. Rows: {}; columns: {}. A layer l of the paper is boundary l + 1 (its output) for the CNN \
         and boundary l for the ViT.",
        found.used, found.batch, a.title, b.title
    )];
    if let Some(plain) = &found.plain {
        figures.push(heat("plain CKA (biased)", plain));
        tables.push(table("Plain CKA, biased", plain));
        notes.push(BIASED.to_owned());
    }
    Ok(Outcome {
        claims,
        result: json!({
            "a": a.names,
            "b": b.names,
            "cka": found.cka,
            "plain": found.plain,
            "batch": found.batch,
            "images_used": found.used,
        }),
        settings: json(settings)?,
        tables,
        figures,
        notes,
    })
}
