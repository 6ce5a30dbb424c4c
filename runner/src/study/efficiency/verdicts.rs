//! The claims about cost, and how counts and measurements decide them.

use super::row::Row;
use crate::study::claim::{Claim, Verdict};

/// The claims.
pub const CLAIMS: [Claim; 6] = [
    Claim {
        id: "ap-cheaper-than-vp",
        source: "Tab. 2, Sec. 5.2",
        claim: "an activation prompt takes less memory and time than VP, on both backbones",
    },
    Claim {
        id: "ap-first",
        source: "Tab. 4, Sec. 5.2",
        claim: "an activation prompt leads the parameter-efficient methods in parameters, memory, time and throughput",
    },
    Claim {
        id: "ap-near-linear",
        source: "Tab. 2, Sec. 5.2",
        claim: "on ResNet-101 an activation prompt costs about what a linear probe costs",
    },
    Claim {
        id: "adaptformer-slow",
        source: "Tab. 4, Sec. 5.2",
        claim: "AdaptFormer has a third of the inference throughput of an activation prompt",
    },
    Claim {
        id: "ap-layers-memory",
        source: "Tab. A9",
        claim: "AP-3 and AP-5 need 1.5 and 2.2 times the memory of AP",
    },
    Claim {
        id: "lora-rank-memory",
        source: "Tab. A8",
        claim: "LoRA's memory grows 5.5-fold from rank 1 to rank 50",
    },
];

/// The largest accepted distance of a ratio from the paper's.
const NEAR: f64 = 0.15;

/// The origin of times.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Nothing was measured.
    None,
    /// From the CPU.
    OnCpu,
    /// From a GPU.
    OnGpu,
}

/// How a figure of two rows is compared.
type Figure = fn(&Row) -> Option<f64>;

const MEMORY: Figure = |row| row.measured.as_ref().map(|m| m.peak as f64);
const SECONDS: Figure = |row| row.measured.as_ref().map(|m| m.seconds_per_epoch);
const SPEED: Figure = |row| row.measured.as_ref().map(|m| m.images_per_second);
const TRAINABLE: Figure = |row| Some(row.count.trainable as f64);
const STEP: Figure = |row| Some(row.count.step as f64);
const FORWARD: Figure = |row| Some(row.count.forward as f64);

fn find<'a>(rows: &'a [Row], backbone: &str, label: &str) -> Option<&'a Row> {
    rows.iter()
        .find(|row| row.backbone == backbone && row.label == label)
}

/// The labels of the backbones, in order.
fn backbones(rows: &[Row]) -> Vec<&str> {
    let mut labels: Vec<&str> = rows.iter().map(|row| row.backbone.as_str()).collect();
    labels.dedup();
    labels
}

/// The ratio of a figure of two rows of a backbone.
fn ratio(rows: &[Row], backbone: &str, [above, below]: [&str; 2], of: Figure) -> Option<f64> {
    Some(of(find(rows, backbone, above)?)? / of(find(rows, backbone, below)?)?)
}

/// The parameter-efficient methods of Tab. 4 beside the activation prompt.
const RIVALS: [&str; 5] = ["Bias", "LoRA", "VPT", "Adapter", "AdaptFormer"];

/// The verdict on a claim.
pub fn judge(claim: &Claim, rows: &[Row], times: Times) -> (Verdict, String) {
    let lacking = || {
        let text = "the rows of this claim are not part of the configuration";
        (Verdict::Undecided, text.to_owned())
    };
    match claim.id {
        "ap-cheaper-than-vp" => cheaper(rows, times).unwrap_or_else(lacking),
        "ap-first" => first(rows, times).unwrap_or_else(lacking),
        "ap-near-linear" => near_linear(rows, times).unwrap_or_else(lacking),
        "adaptformer-slow" => adaptformer(rows, times).unwrap_or_else(lacking),
        "ap-layers-memory" => {
            memory(rows, &[("AP-3", "AP", 1.5), ("AP-5", "AP", 2.2)]).unwrap_or_else(lacking)
        }
        _ => memory(rows, &[("LoRA-50", "LoRA-1", 5.5)]).unwrap_or_else(lacking),
    }
}

/// The verdict where counts alone do not decide.
fn needs_gpu(counted: String) -> (Verdict, String) {
    let text = format!(
        "{counted}; memory and time need a GPU: runner study efficiency --config study/portrait.yaml --device cuda"
    );
    (Verdict::NeedsGpu, text)
}

/// A verdict on times that were measured, which speaks of the machine.
fn on_machine(verdict: bool, text: String, times: Times) -> (Verdict, String) {
    match times {
        Times::OnCpu => (
            Verdict::of(verdict),
            format!("{text}; measured on the CPU, in miniature"),
        ),
        _ => (Verdict::of(verdict), text),
    }
}

fn cheaper(rows: &[Row], times: Times) -> Option<(Verdict, String)> {
    let mut texts = Vec::new();
    let mut all = true;
    for backbone in backbones(rows) {
        let Some(step) = ratio(rows, backbone, ["AP", "VP"], STEP) else {
            continue;
        };
        let measured = [("memory", MEMORY), ("seconds", SECONDS)];
        let measured = measured.map(|(name, of)| (name, ratio(rows, backbone, ["AP", "VP"], of)));
        all &= measured
            .iter()
            .all(|(_, ratio)| ratio.is_some_and(|ratio| ratio < 1.0));
        let known = measured
            .iter()
            .filter_map(|(name, ratio)| Some(format!("{name} {:.2}", (*ratio)?)));
        let known: Vec<String> = [format!("operations {step:.2}")]
            .into_iter()
            .chain(known)
            .collect();
        texts.push(format!("{backbone}: AP over VP in {}", known.join(", ")));
    }
    let text = (!texts.is_empty()).then(|| texts.join("; "))?;
    Some(match times {
        Times::None => needs_gpu(text),
        times => on_machine(all, text, times),
    })
}

fn first(rows: &[Row], times: Times) -> Option<(Verdict, String)> {
    // The table is about a Vision Transformer.
    let own: Vec<&Row> = rows.iter().filter(|row| !row.cnn).collect();
    let ap = own.iter().find(|row| row.label == "AP")?;
    let rivals: Vec<&&Row> = own
        .iter()
        .filter(|row| RIVALS.contains(&row.label.as_str()))
        .collect();
    if rivals.is_empty() {
        return None;
    }
    let columns: [(&str, Figure, bool); 4] = [
        ("parameters", TRAINABLE, false),
        ("memory", MEMORY, false),
        ("seconds", SECONDS, false),
        ("throughput", SPEED, true),
    ];
    let mut behind = Vec::new();
    for (name, of, more) in columns {
        let Some(value) = of(ap) else { continue };
        let beaten = rivals
            .iter()
            .filter(|row| of(row).is_some_and(|other| (other > value) == more && other != value));
        let labels: Vec<&str> = beaten.map(|row| row.label.as_str()).collect();
        if !labels.is_empty() {
            behind.push(format!("{name}: behind {}", labels.join(", ")));
        }
    }
    Some(match (behind.is_empty(), times) {
        // One column that AP does not lead decides, without a GPU too.
        (false, Times::None) => (
            Verdict::DoesNotHold,
            format!("by counting, {}", behind.join("; ")),
        ),
        (true, Times::None) => needs_gpu("AP has the fewest parameters".to_owned()),
        (first, times) => {
            let text = match first {
                true => "AP leads in every column".to_owned(),
                false => behind.join("; "),
            };
            on_machine(first, text, times)
        }
    })
}

fn near_linear(rows: &[Row], times: Times) -> Option<(Verdict, String)> {
    let cnn = rows.iter().find(|row| row.cnn)?.backbone.as_str();
    let pair = ["AP", "Linear-Probe"];
    let step = ratio(rows, cnn, pair, STEP)?;
    let text = format!("{cnn}: AP over the linear probe in operations of a step {step:.2}");
    let measured = [MEMORY, SECONDS].map(|of| ratio(rows, cnn, pair, of));
    Some(match measured {
        [Some(memory), Some(seconds)] => {
            let near = [memory, seconds]
                .iter()
                .all(|ratio| (ratio - 1.0).abs() <= NEAR);
            on_machine(
                near,
                format!("{text}, memory {memory:.2}, seconds {seconds:.2}"),
                times,
            )
        }
        _ => needs_gpu(text),
    })
}

fn adaptformer(rows: &[Row], times: Times) -> Option<(Verdict, String)> {
    let vit = rows.iter().find(|row| !row.cnn)?.backbone.as_str();
    let pair = ["AdaptFormer", "AP"];
    let forward = ratio(rows, vit, pair, FORWARD)?;
    let text = format!("{vit}: its forward pass takes {forward:.3} times the operations of AP's");
    let speed = ratio(rows, vit, pair, SPEED);
    Some(match speed {
        Some(speed) => {
            let third = (speed * 3.0 - 1.0).abs() <= NEAR;
            on_machine(
                third,
                format!("{text}, its throughput is {speed:.2} times AP's"),
                times,
            )
        }
        // A third of the throughput would take three times the operations, or a device that wastes them.
        None => (
            Verdict::DoesNotHold,
            format!("{text}: the arithmetic does not allow a third of the throughput"),
        ),
    })
}

fn memory(rows: &[Row], ratios: &[(&str, &str, f64)]) -> Option<(Verdict, String)> {
    let vit = rows.iter().find(|row| !row.cnn)?.backbone.as_str();
    let (mut texts, mut near) = (Vec::new(), true);
    for (above, below, paper) in ratios {
        find(rows, vit, above)?;
        let Some(found) = ratio(rows, vit, [above, below], MEMORY) else {
            return Some(needs_gpu(format!(
                "{above} has {} trainable parameters, {below} {}",
                find(rows, vit, above)?.count.trainable,
                find(rows, vit, below)?.count.trainable
            )));
        };
        near &= (found / paper - 1.0).abs() <= NEAR;
        texts.push(format!(
            "{above} over {below} {found:.2}, in the paper {paper}"
        ));
    }
    Some((
        Verdict::of(near),
        format!("{vit}, peak memory: {}", texts.join("; ")),
    ))
}
