//! The table of timm's variants, and what each prepares its images like.

use peft_core::backbone::{IMAGENET_MEAN, IMAGENET_STD, variant};
use peft_core::error::{Error, Result};

use crate::architecture::EPSILON;

/// Means of CLIP's images.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviations of CLIP's images.
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A row of the table, under the names of the configuration's fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub depths: [usize; 4],
    pub dims: [usize; 4],
    pub conv_mlp: bool,
    pub use_grn: bool,
    pub head_norm_first: bool,
    pub head_hidden_size: Option<usize>,
    pub norm_eps: f64,
    preparation: Preparation,
}

/// How images are prepared for weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Preparation {
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub crop_pct: f32,
}

impl Preparation {
    pub(crate) const IMAGENET: Self = Self {
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        crop_pct: 0.875,
    };
    const CLIP: Self = Self {
        mean: CLIP_MEAN,
        std: CLIP_STD,
        crop_pct: 1.0,
    };

    const fn cropped(self, crop_pct: f32) -> Self {
        Self { crop_pct, ..self }
    }
}

const fn row(depths: [usize; 4], dims: [usize; 4]) -> Row {
    Row {
        depths,
        dims,
        conv_mlp: false,
        use_grn: false,
        head_norm_first: false,
        head_hidden_size: None,
        norm_eps: EPSILON,
        preparation: Preparation::IMAGENET,
    }
}

impl Row {
    /// Convolutions of 1x1 in the MLPs.
    const fn conv(self) -> Self {
        Self {
            conv_mlp: true,
            ..self
        }
    }

    /// Version 2.
    const fn v2(self) -> Self {
        Self {
            use_grn: true,
            ..self
        }
    }

    /// Weights that timm trained itself keep 0.95 of the resized image.
    const fn of_timm(self) -> Self {
        Self {
            preparation: self.preparation.cropped(0.95),
            ..self
        }
    }

    /// An image tower of CLIP's.
    const fn clip(self) -> Self {
        Self {
            preparation: Preparation::CLIP,
            ..self
        }
    }
}

const ATTO: [usize; 4] = [40, 80, 160, 320];
const FEMTO: [usize; 4] = [48, 96, 192, 384];
const PICO: [usize; 4] = [64, 128, 256, 512];
const NANO: [usize; 4] = [80, 160, 320, 640];
const TINY: [usize; 4] = [96, 192, 384, 768];
const BASE: [usize; 4] = [128, 256, 512, 1024];
const LARGE: [usize; 4] = [192, 384, 768, 1536];
const XLARGE: [usize; 4] = [256, 512, 1024, 2048];
const HUGE: [usize; 4] = [352, 704, 1408, 2816];
const XXLARGE: [usize; 4] = [384, 768, 1536, 3072];

/// timm's variants. The four smallest of both versions have 1x1 convolutions in their MLPs.
#[rustfmt::skip]
const VARIANTS: [(&str, Row); 21] = [
    ("convnext_atto", row([2, 2, 6, 2], ATTO).conv()),
    ("convnext_femto", row([2, 2, 6, 2], FEMTO).conv()),
    ("convnext_pico", row([2, 2, 6, 2], PICO).conv()),
    ("convnext_nano", row([2, 2, 8, 2], NANO).conv().of_timm()),
    ("convnext_tiny", row([3, 3, 9, 3], TINY).of_timm()),
    ("convnext_tiny_hnf", Row { head_norm_first: true, ..row([3, 3, 9, 3], TINY).conv().of_timm() }),
    ("convnext_small", row([3, 3, 27, 3], TINY).of_timm()),
    ("convnext_base", row([3, 3, 27, 3], BASE)),
    ("convnext_large", row([3, 3, 27, 3], LARGE)),
    ("convnext_large_mlp", Row { head_hidden_size: Some(1536), ..row([3, 3, 27, 3], LARGE).clip() }),
    ("convnext_xlarge", row([3, 3, 27, 3], XLARGE)),
    ("convnext_xxlarge", Row { norm_eps: 1e-5, ..row([3, 4, 30, 3], XXLARGE).clip() }),
    ("convnextv2_atto", row([2, 2, 6, 2], ATTO).conv().v2()),
    ("convnextv2_femto", row([2, 2, 6, 2], FEMTO).conv().v2()),
    ("convnextv2_pico", row([2, 2, 6, 2], PICO).conv().v2()),
    ("convnextv2_nano", row([2, 2, 8, 2], NANO).conv().v2()),
    ("convnextv2_tiny", row([3, 3, 9, 3], TINY).v2()),
    ("convnextv2_small", row([3, 3, 27, 3], TINY).v2()),
    ("convnextv2_base", row([3, 3, 27, 3], BASE).v2()),
    ("convnextv2_large", row([3, 3, 27, 3], LARGE).v2()),
    ("convnextv2_huge", row([3, 3, 27, 3], HUGE).v2()),
];

/// The names of the table.
pub(crate) fn names() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _)| *name).collect()
}

/// The row of a variant.
///
/// # Errors
/// [`Error::Config`] for a name that is not in the table, with the reason where timm has it.
pub(crate) fn find(name: &str) -> Result<&'static Row> {
    let bare = bare(name);
    let refused = if bare.starts_with("convnext") && bare.ends_with("_ols") {
        Some("a stem of overlapping convolutions")
    } else if bare.starts_with("convnext") && bare.contains("_rms") {
        Some("root-mean-square norms")
    } else {
        None
    };
    match refused {
        Some(what) => {
            let message = format!("{name:?} has {what}, which this backbone does not support");
            Err(Error::config("variant", message))
        }
        None => variant(&VARIANTS, name),
    }
}

/// The name without the tag of its weights.
fn bare(name: &str) -> &str {
    name.split_once('.').map_or(name, |(bare, _)| bare)
}

/// How images are prepared for a variant. The tag of its weights may say otherwise: image towers of CLIP's, and
/// DINOv3's networks.
pub(crate) fn preparation(name: &str, row: &Row) -> Preparation {
    let own = row.preparation;
    match name.split_once('.').map(|(_, tag)| tag) {
        Some(tag) if tag.starts_with("clip_") => Preparation::CLIP,
        Some(tag) if tag.starts_with("dinov3_") => Preparation::IMAGENET.cropped(1.0),
        Some(tag) if tag.starts_with("fb_") => Preparation::IMAGENET,
        _ => own,
    }
}
