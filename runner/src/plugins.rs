//! The one place where plugins are linked. A crate that is only listed in `Cargo.toml` is not linked.

use peft_adapter as _;
use peft_adaptformer as _;
use peft_ap as _;
use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_bias as _;
use peft_convpass as _;
use peft_datasets as _;
use peft_fact as _;
use peft_fourierft as _;
use peft_full_finetune as _;
use peft_linear_probe as _;
use peft_loha as _;
use peft_lokr as _;
use peft_lora as _;
use peft_norm_tune as _;
use peft_oft as _;
use peft_partial as _;
use peft_rep_adapter as _;
use peft_ssf as _;
use peft_vera as _;
use peft_vp as _;
use peft_vpt as _;
