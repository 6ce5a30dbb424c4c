//! Operations counted by hand, for a small Transformer and small networks of convolutions.

use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor};

use super::*;
use crate::acts::Extras;
use crate::adapter::Adapter;
use crate::input::{CropMode, InputSpec, Interpolation};
use crate::low_rank::LowRank;
use crate::plug::Plug;

fn spec(shapes: &[BoundaryShape], sites: Vec<Site>) -> BackboneSpec {
    let image = BoundaryShape::image(8.into());
    let names: Vec<_> = (1..shapes.len()).map(|i| format!("blocks.{i}")).collect();
    BackboneSpec {
        name: "toy".to_owned(),
        depth: names.len(),
        boundaries: BackboneSpec::boundaries(image, &names, shapes),
        sites,
        input: InputSpec {
            size: 8.into(),
            mean: [0.5; 3],
            std: [0.5; 3],
            interpolation: Interpolation::Bicubic,
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
        },
        features: 8,
        head_name: "head",
    }
}

fn conv([inputs, outputs]: [usize; 2], kernel: usize, stride: usize, groups: usize) -> SiteKind {
    SiteKind::Conv {
        inputs,
        outputs,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [if stride == kernel { 0 } else { kernel / 2 }; 2],
        groups,
    }
}

/// Two blocks of width 8 with an MLP of 16 on 4 patches of 4 x 4 pixels and a class token.
fn vit() -> BackboneSpec {
    let shape = BoundaryShape::Tokens { count: 5, width: 8 };
    let mut sites = vec![Site::new("patch_embed.proj", 0, conv([3, 8], 4, 4, 1))];
    for i in [0, 1] {
        let branch = |branch| SiteKind::Branch { branch, width: 8 };
        let linear = |inputs, outputs| SiteKind::Linear { inputs, outputs };
        let parts = [
            ("norm1", SiteKind::Norm { channels: 8 }),
            ("attn.qkv", linear(8, 24)),
            ("attn.proj", linear(8, 8)),
            ("attn", branch(Branch::Attention)),
            ("norm2", SiteKind::Norm { channels: 8 }),
            ("mlp.fc1", linear(8, 16)),
            ("mlp.fc2", linear(16, 8)),
            ("mlp", branch(Branch::Mlp)),
        ];
        sites
            .extend(parts.map(|(part, kind)| Site::new(format!("blocks.{i}.{part}"), i + 1, kind)));
    }
    spec(&[shape; 3], sites)
}

/// Appends this many tokens before the second block; without a number it is a path of rank 2 at
/// the `attn.qkv` of that block.
#[derive(Module, Debug)]
struct Toy {
    tokens: usize,
}

impl Adapter for Toy {
    fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
        (index == 2 && self.tokens > 0).then(|| {
            BoundaryAct::Extras(Extras {
                tokens: Tensor::zeros([self.tokens, 8], &Device::flex()),
                dropout: 0.0,
                replace: true,
            })
        })
    }
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        if site.name != "blocks.1.attn.qkv" || self.tokens > 0 {
            return Vec::new();
        }
        let matrix = |shape: [usize; 2]| Tensor::zeros(shape, &Device::flex());
        let factors = Factors::Linear(matrix([2, 8]), matrix([24, 2]));
        vec![SiteAct::LowRank(LowRank::new(factors, 1.0))]
    }
}

fn count(spec: &BackboneSpec, toy: Option<Toy>, tuned: bool, first_cut: Cut) -> Flops {
    let adapters: Named<String, BoxedAdapter> = toy
        .map(|toy| {
            (
                "toy".to_owned(),
                Plug::new(Box::new(toy) as Box<dyn Adapter>),
            )
        })
        .into_iter()
        .collect();
    let weight = |site: &Site| ParamInfo {
        name: format!("{}.weight", site.name),
        shape: vec![],
        bytes: 0,
        id: ParamId::new(),
        buffer: false,
    };
    let parameters = spec.sites.iter().map(|site| (weight(site), tuned));
    Walk::new(spec, &adapters, parameters).run(first_cut, [spec.features, 3])
}

const STEM: u64 = 2 * 48 * 8 * 4;
const QKV: u64 = 2 * 8 * 24 * 5;
const MIX: u64 = 4 * 5 * 5 * 8;
const PROJ: u64 = 2 * 8 * 8 * 5;
const MLP: u64 = 2 * (2 * 8 * 16 * 5);
const BLOCK: u64 = QKV + MIX + PROJ + MLP;
const HEAD: u64 = 2 * 8 * 3;

#[test]
fn a_probe_costs_only_its_head_and_full_tuning_three_forward_passes() {
    let expected = Flops {
        prefix: STEM + 2 * BLOCK,
        suffix: HEAD,
        weights: HEAD,
        ..Flops::default()
    };
    assert_eq!(count(&vit(), None, false, 4), expected);
    let expected = Flops {
        suffix: STEM + 2 * BLOCK + HEAD,
        // The image needs none; both factors of attention's products do.
        activations: 2 * (BLOCK + MIX) + HEAD,
        weights: STEM + 2 * (BLOCK - MIX) + HEAD,
        ..Flops::default()
    };
    assert_eq!(count(&vit(), None, true, 0), expected);
}

#[test]
fn a_low_rank_path_costs_its_factors_and_the_gradients_above_it() {
    let path = Toy { tokens: 0 };
    let expected = Flops {
        prefix: STEM + BLOCK,
        suffix: BLOCK + HEAD,
        adapter: 2 * 2 * (8 + 24) * 5,
        // Only the upper factor of the path counts; `qkv` itself stands beside it.
        activations: 2 * 2 * 24 * 5 + 2 * MIX + PROJ + MLP + HEAD,
        weights: 2 * 2 * (8 + 24) * 5 + HEAD,
    };
    assert_eq!(count(&vit(), Some(path), false, 2), expected);
}

#[test]
fn extra_tokens_lengthen_the_sequence() {
    let tokens = Toy { tokens: 2 };
    let (layers, mix) = ((QKV + PROJ + MLP) / 5 * 7, MIX / 25 * 49);
    let expected = Flops {
        prefix: STEM + BLOCK,
        suffix: layers + mix + HEAD,
        adapter: 0,
        activations: layers + 2 * mix + HEAD,
        weights: HEAD,
    };
    assert_eq!(count(&vit(), Some(tokens), false, 2), expected);
}

#[test]
fn a_strided_convolution_reads_what_its_block_reads() {
    let map = |channels, side| BoundaryShape::Map {
        channels,
        height: side,
        width: side,
    };
    let sites = [
        ("conv1", conv([4, 2], 1, 1, 1)),
        ("conv2", conv([2, 2], 3, 2, 2)),
        ("conv3", conv([2, 8], 1, 1, 1)),
        ("downsample.0", conv([4, 8], 1, 2, 1)),
    ]
    .map(|(name, kind)| Site::new(name, 1, kind));
    let spec = spec(&[map(4, 8), map(8, 4)], sites.into());
    let operations = 2 * (4 * 2 * 64 + 2 * 9 * 16 + 2 * 8 * 16 + 4 * 8 * 16);
    assert_eq!(count(&spec, None, false, 3).prefix, operations);
}
