//! The key of a table: a hash of everything that its rows depend on.

use burn::tensor::DType;
use peft_core::data::Split;
use peft_ops::{Accelerated, Level, RESULTS};
use serde_json::json;

use crate::cache::prefix::Prefix;
use crate::data::loader::Loader;
use crate::data::random::EpochRandom;
use crate::data::table::Shape;
use crate::device::ComputeDevice;

/// Bump this whenever a decoder or a transform changes a pixel; old cache files are then ignored.
/// [`RESULTS`] does the same for the kernels.
const PIXELS: u32 = 0;

/// A table that a trial asks for.
pub struct Request<'a> {
    /// Two requests have equal keys only if their rows are equal to the bit.
    pub key: String,
    /// The number and size of the rows.
    pub shape: Shape,
    /// The split whose images they are made of.
    pub split: Split,
    /// The random changes of each view, if images are changed.
    pub random: Option<EpochRandom>,
    /// The frozen part that computes the rows.
    pub prefix: &'a Prefix<'a>,
}

impl<'a> Request<'a> {
    /// The rows of a split of the loader.
    pub fn new(
        split: Split,
        loader: &Loader,
        prefix: &'a Prefix,
        random: Option<EpochRandom>,
    ) -> Self {
        let views = random.map_or(1, |random| random.views);
        let values = prefix.shape().elements();
        Self {
            key: key(split, loader, prefix, random),
            shape: Shape {
                rows: views * loader.images().dataset().len(split),
                row_bytes: values * prefix.encoding().bytes(),
            },
            split,
            random,
            prefix,
        }
    }

    /// The number of rows for each image.
    pub fn views(&self) -> usize {
        self.random.map_or(1, |random| random.views)
    }
}

fn key(split: Split, loader: &Loader, prefix: &Prefix, random: Option<EpochRandom>) -> String {
    let trial = prefix.trial;
    let seed = trial.experiment.seed;
    // Pixels do not depend on the backbone, so trials of all backbones share them.
    let backbone = (prefix.cut() > 0).then(|| {
        let mut config = json!(trial.experiment.backbone);
        // Weights are identified by their content, not by their path. Without a file they are drawn
        // from the seed.
        let drawn = || format!("seed {seed}");
        config["weights"] = trial
            .weights_hash()
            .map_or_else(drawn, str::to_owned)
            .into();
        let mut backbone = json!({
            "config": config,
            "cut": prefix.cut(),
            "compute": format!("{:?}", prefix.compute_type()),
        });
        // Only where there are several, so that the keys of existing files stay valid.
        if prefix.taps.are_of_side() {
            backbone["taps"] = json!(prefix.taps.read());
        }
        backbone
    });
    // Pixels are not computed in it.
    let narrow = prefix.cut() > 0 && prefix.compute_type() == DType::BF16;
    let views = random
        .map(|random| json!({ "seed": seed, "views": random.views, "augment": random.augment }));
    let all = json!({
        "backbone": backbone,
        "data": trial.data.fingerprint(),
        "split": split,
        "input": loader.preprocess().input,
        "encoding": format!("{:?}", prefix.encoding()),
        // The words stay as they are: another spelling would make every existing file useless.
        "kernels": [(RESULTS + PIXELS).to_string(), code(prefix.device, narrow)],
        "views": views,
    });
    blake3::hash(all.to_string().as_bytes()).to_hex()[..32].to_owned()
}

/// Identifies the code that computes rows on a device, in bf16 or in `f32`, because other code may round the
/// last bit differently.
fn code(device: &ComputeDevice, narrow: bool) -> String {
    // An invalid PEFT_OPS or PEFT_OPS_CUDA ends the program before anything is computed.
    if !device.is_cpu() {
        let accelerated = peft_ops::accelerated().unwrap_or(Accelerated::Kernels);
        return format!("{} {}", device.model(), accelerated.name());
    }
    let level = peft_ops::level().unwrap_or(Level::Off);
    let level = if narrow { level } else { level.of_f32() };
    code_of_cpu(instructions(), level)
}

/// The best vector instructions of the CPU, by which the operations of Burn choose their code
/// whatever `PEFT_OPS` says.
fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return "avx512";
    } else if is_x86_feature_detected!("avx2") {
        return "avx2";
    }
    "base"
}

/// Adds the kernel level only if it is not the one that goes with the CPU, so that the keys of
/// existing files stay valid.
fn code_of_cpu(instructions: &str, level: Level) -> String {
    let arch = std::env::consts::ARCH;
    let level = match level {
        Level::Off => "off",
        Level::Composed => "composed",
        Level::Baseline => "base",
        Level::Avx2 => "avx2",
        Level::Avx512 => "avx512",
        Level::Avx512Bf16 => "avx512-bf16",
    };
    if level == instructions {
        format!("{arch} {instructions}")
    } else {
        format!("{arch} {instructions} {level}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn code_differs_with_the_cpu_and_with_the_level() {
        let arch = std::env::consts::ARCH;
        assert_eq!(
            code_of_cpu("avx512", Level::Avx512),
            format!("{arch} avx512")
        );
        assert_eq!(code_of_cpu("avx2", Level::Avx2), format!("{arch} avx2"));
        assert_eq!(code_of_cpu("base", Level::Baseline), format!("{arch} base"));
        let mut seen = BTreeSet::new();
        for instructions in ["base", "avx2", "avx512"] {
            for level in Level::ALL {
                assert!(seen.insert(code_of_cpu(instructions, level)));
            }
        }
    }

    #[test]
    fn the_level_in_force_is_in_the_code_of_the_cpu() {
        let level = peft_ops::level().unwrap();
        for (narrow, level) in [(false, level.of_f32()), (true, level)] {
            assert_eq!(
                code(&ComputeDevice::cpu(), narrow),
                code_of_cpu(instructions(), level)
            );
        }
    }
}
