//! Which table is asked for: its key, a hash of all that its rows depend on.

use peft_core::data::Split;
use serde_json::json;

use crate::cache::prefix::Prefix;
use crate::data::loader::Loader;
use crate::data::random::EpochRandom;
use crate::data::table::Shape;
use crate::device::Chosen;

/// Raised with every change of a kernel, a decoder or a transform that alters a number, so that no old
/// file is taken.
const KERNELS: u32 = 4;

/// A table that is asked for.
pub struct Wanted<'a> {
    pub key: String,
    pub shape: Shape,
    pub split: Split,
    pub random: Option<EpochRandom>,
    pub prefix: &'a Prefix<'a>,
}

impl<'a> Wanted<'a> {
    pub fn new(
        split: Split,
        loader: &Loader,
        prefix: &'a Prefix,
        random: Option<EpochRandom>,
    ) -> Self {
        let views = random.map_or(1, |random| random.views);
        let row = prefix.shape().elements();
        Self {
            key: key(split, loader, prefix, random),
            shape: Shape {
                rows: views * loader.images().dataset().len(split),
                row_bytes: row * prefix.encoding().bytes(),
            },
            split,
            random,
            prefix,
        }
    }
}

/// A hash of all that the rows depend on.
fn key(split: Split, loader: &Loader, prefix: &Prefix, random: Option<EpochRandom>) -> String {
    let trial = prefix.trial;
    let seed = trial.experiment.seed;
    let backbone = (prefix.cut > 0).then(|| {
        let mut config = json!(trial.experiment.backbone);
        let random = || format!("seed {seed}");
        config["weights"] = trial
            .weights_hash()
            .map_or_else(random, str::to_owned)
            .into();
        json!({
            "config": config,
            "cut": prefix.cut,
            "compute": format!("{:?}", trial.compute_type()),
        })
    });
    let views = random
        .map(|random| json!({ "seed": seed, "views": random.views, "augment": random.augment }));
    let all = json!({
        "backbone": backbone,
        "data": trial.data.fingerprint(),
        "split": split,
        "input": loader.preprocess().input,
        "encoding": format!("{:?}", prefix.encoding()),
        "kernels": [KERNELS.to_string(), machine(prefix.device)],
        "views": views,
    });
    blake3::hash(all.to_string().as_bytes()).to_hex()[..32].to_owned()
}

/// What kernels run there: two machines may differ in the last bit.
fn machine(device: &Chosen) -> String {
    #[cfg(target_arch = "x86_64")]
    let level = match (
        is_x86_feature_detected!("avx512f"),
        is_x86_feature_detected!("avx2"),
    ) {
        (true, _) => "avx512",
        (false, true) => "avx2",
        _ => "base",
    };
    #[cfg(not(target_arch = "x86_64"))]
    let level = "";
    match device.is_cpu() {
        true => format!("{} {level}", std::env::consts::ARCH),
        false => "cuda".to_owned(),
    }
}
