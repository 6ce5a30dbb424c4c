//! Linear probe: the backbone stays frozen and only the head trains.
//!
//! A baseline of every comparison. Parameters: none besides the head, which has `D C + C` for `C`
//! classes.

use peft_core::backbone::{Backbone, Init};
use peft_core::error::Result;
use peft_core::method::{AdaptationMethod, Attachment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Train the head only.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearProbe {}

#[typetag::serde(name = "linear-probe")]
impl AdaptationMethod for LinearProbe {
    fn attach(&self, _: &dyn Backbone, _: &Init) -> Result<Attachment> {
        Ok(Attachment::default())
    }

    fn formula(&self, _: &dyn Backbone) -> Result<usize> {
        Ok(0)
    }
}

peft_core::register!(
    Method, LinearProbe,
    name: "linear-probe",
    summary: "train the head only",
    reference: "Understanding intermediate layers using linear classifier probes, Alain and Bengio, 2016",
    example: "name: linear-probe\n",
);

#[cfg(test)]
mod tests {
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_testing::{Golden, conforms, vit};

    use super::*;

    #[test]
    fn training_agrees_with_timm() {
        let rename = |name: &str| name.to_owned();
        Golden::fixture("peft/linear_probe").check_training(
            &*vit(),
            Box::new(LinearProbe {}),
            rename,
        );
    }

    #[test]
    fn it_conforms() {
        conforms(&[Box::new(LinearProbe {})]);
    }
}
