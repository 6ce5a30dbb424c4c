//! The adapter of LoRA: factors by site.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use peft_core::backbone::{Backbone, Init};
use peft_core::described::{DescribedSide, DescribedSite, Formula};
use peft_core::hooks::{Side, SiteAct, like};
use peft_core::low_rank::{Factors, LowRank};
use peft_core::method::Adapter;
use peft_core::params;
use peft_core::plug::{Buffer, BySite};
use peft_core::random::Distribution;
use peft_core::site::{Picked, Site, SiteKind};
use peft_core::weight::WeightAct;

use crate::config::{Lora, Place, Start, sizes};
use crate::decompose::Matrix;

/// The factors of a [`Lora`](crate::Lora).
#[derive(Module, Debug)]
pub struct LoraAdapter {
    pub(crate) factors: BySite<SiteFactors>,
    pub(crate) dropout: f64,
}

impl Adapter for LoraAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let own = site.parts();
        let own = own.filter_map(|(name, rows)| Some((self.factors.get(name)?, rows)));
        let own: Vec<(&SiteFactors, _)> = own.collect();
        // The weight loses its part before anything acts beside it, whichever slice that is on.
        let lost = own
            .iter()
            .filter_map(|(at, rows)| at.residual(rows.clone()));
        let mut acts: Vec<SiteAct> = lost.map(SiteAct::Weight).collect();
        for (at, rows) in own {
            let shift = at.shift(site, rows.clone());
            let mut path = LowRank::new(at.factors(), at.scale);
            path.dropout = self.dropout;
            path.rows = rows;
            path.magnitude = at.lora_magnitude_vector.as_ref().map(Param::val);
            acts.push(SiteAct::LowRank(path));
            acts.extend(shift.map(|shift| SiteAct::ScaleShift {
                on: Side::Output,
                scale: None,
                shift: Some(shift),
            }));
        }
        acts
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let own = site.parts();
        let own = own.filter_map(|(name, rows)| Some((name, self.factors.get(name)?, rows)));
        let own: Vec<(&str, &SiteFactors, _)> = own.collect();
        let lost = own.iter().filter_map(|(name, at, rows)| {
            at.taken.as_ref()?;
            let part = |part: &str| Formula::parameter(format!("{name}.taken.{part}"));
            let product = part("b").matmul(part("a")).scaled(-at.scale);
            Some(DescribedSite::Weight {
                value: Formula::Weight.plus(product),
                rows: rows.clone(),
            })
        });
        let mut acts: Vec<DescribedSite> = lost.collect();
        for (name, at, rows) in own {
            let part = |part: &str| Formula::parameter(format!("{name}.{part}"));
            let magnitude = at.lora_magnitude_vector.as_ref();
            acts.push(DescribedSite::LowRank {
                a: part("lora_A.weight"),
                b: part("lora_B.weight"),
                scale: at.scale,
                rows: rows.clone(),
                magnitude: magnitude.map(|_| part("lora_magnitude_vector")),
            });
            acts.extend(at.lora_B.bias.as_ref().map(|_| {
                let own = part("lora_B.bias").scaled(at.scale);
                DescribedSite::ScaleShift {
                    on: DescribedSide::Output,
                    scale: None,
                    shift: Some(among_all(own, site, rows)),
                }
            }));
        }
        acts
    }
}

/// The values of a slice among all outputs of the site, with zeros around them.
fn among_all(own: Formula, site: &Site, rows: Option<Range<usize>>) -> Formula {
    match rows {
        None => own,
        Some(Range { start, end }) => {
            let (before, after) = (start, outputs(site) - end);
            Formula::cat(0, [Formula::zeros([before]), own, Formula::zeros([after])])
        }
    }
}

/// The number of outputs of a layer.
fn outputs(site: &Site) -> usize {
    match site.kind {
        SiteKind::Linear { outputs, .. } | SiteKind::Conv { outputs, .. } => outputs,
        _ => unreachable!("only layers are picked"),
    }
}

/// `A`, `B` and DoRA's magnitude at one site, under HF PEFT's names.
#[derive(Module, Debug)]
pub(crate) struct SiteFactors {
    lora_A: Factor,
    lora_B: Factor,
    lora_magnitude_vector: Option<Param<Tensor<1>>>,
    scale: f64,
    /// The factors that the frozen weight loses, if they started from it.
    taken: Option<Taken>,
}

/// `A` and `B` as they started.
#[derive(Module, Debug)]
struct Taken {
    a: Buffer<2>,
    b: Buffer<2>,
}

/// A matrix, or a convolution's kernel.
#[derive(Module, Debug)]
struct Factor {
    weight: Weight,
    bias: Option<Param<Tensor<1>>>,
}

#[derive(Module, Debug)]
enum Weight {
    Matrix(Param<Tensor<2>>),
    Kernel(Param<Tensor<4>>),
}

impl SiteFactors {
    pub(crate) fn new(
        place: &Place,
        magnitude: Option<Param<Tensor<1>>>,
        lora: &Lora,
        init: &Init,
    ) -> Self {
        let Place {
            picked,
            rank,
            scale,
            ..
        } = place;
        let name = |part: &str| format!("{}.{part}.weight", picked.name());
        let [fan_in, rows, groups] = sizes(picked);
        let a = match lora.init {
            Start::Gaussian => Distribution::Normal(0.0, 1.0 / *rank as f32),
            _ => Distribution::kaiming(fan_in),
        };
        let b = Distribution::Zeros;
        let [lora_A, lora_B] = match picked.site.kind {
            SiteKind::Conv {
                inputs,
                kernel: [kh, kw],
                ..
            } => {
                // As in HF PEFT, A reads all channels even where the convolution has groups, and
                // only B is divided into them.
                let shapes = [[*rank, inputs, kh, kw], [rows, rank / groups, 1, 1]];
                [
                    Weight::Kernel(init.param(&name("lora_A"), shapes[0], a)),
                    Weight::Kernel(init.param(&name("lora_B"), shapes[1], b)),
                ]
            }
            _ => [
                Weight::Matrix(init.param(&name("lora_A"), [*rank, fan_in], a)),
                Weight::Matrix(init.param(&name("lora_B"), [rows, *rank], b)),
            ],
        }
        .map(|weight| Factor { weight, bias: None });
        let bias = format!("{}.lora_B.bias", picked.name());
        let lora_B = Factor {
            bias: (lora.lora_bias).then(|| init.param(&bias, [rows], Distribution::Zeros)),
            ..lora_B
        };
        Self {
            lora_A,
            lora_B,
            lora_magnitude_vector: magnitude,
            scale: *scale,
            taken: None,
        }
    }

    /// The same factors starting from these, `A [r, in]` and `B [rows, r]`, whose product is a part of
    /// the frozen weight.
    pub(crate) fn starting_from(self, [a, b]: [TensorData; 2], init: &Init) -> Self {
        let tensor = |data: TensorData| Tensor::<2>::from_data(data, init.device());
        let (a, b) = (tensor(a), tensor(b));
        let factor = |value: &Tensor<2>, bias| Factor {
            weight: Weight::Matrix(Param::from_tensor(value.clone())),
            bias,
        };
        Self {
            lora_A: factor(&a, None),
            lora_B: factor(&b, self.lora_B.bias),
            taken: Some(Taken {
                a: Buffer::new(a),
                b: Buffer::new(b),
            }),
            ..self
        }
    }

    /// The frozen weight without the product with which the factors started.
    fn residual(&self, rows: Option<Range<usize>>) -> Option<WeightAct<'_>> {
        let taken = self.taken.as_ref()?;
        let function = move |weight: Tensor<2>| {
            let (a, b) = (like(taken.a.val(), &weight), like(taken.b.val(), &weight));
            weight - b.matmul(a) * self.scale
        };
        Some(WeightAct {
            rows,
            function: Box::new(function),
        })
    }

    /// The scaled bias of `B` among all outputs of the site.
    fn shift(&self, site: &Site, rows: Option<Range<usize>>) -> Option<Tensor<1>> {
        let own = self.lora_B.bias.as_ref()?.val() * self.scale;
        // A bias of a slice is a shift of the whole output that is zero outside the slice.
        let Some(Range { start, end }) = rows else {
            return Some(own);
        };
        let zeros = |count: usize| like(Tensor::<1>::zeros([count], &own.device()), &own);
        let (before, after) = (zeros(start), zeros(outputs(site) - end));
        Some(Tensor::cat(vec![before, own, after], 0))
    }

    fn factors(&self) -> Factors {
        match (&self.lora_A.weight, &self.lora_B.weight) {
            (Weight::Matrix(a), Weight::Matrix(b)) => Factors::Linear(a.val(), b.val()),
            (Weight::Kernel(a), Weight::Kernel(b)) => Factors::Conv(a.val(), b.val()),
            _ => unreachable!("both are made together"),
        }
    }
}

/// The rows of the frozen weight at a site or slice.
fn rows(backbone: &dyn Backbone, picked: &Picked) -> Vec<Vec<f32>> {
    // The weight is read by its name, because an erased backbone gives access to its parameters in
    // no other way.
    let weight = params::value(backbone, &format!("{}.weight", picked.site.name));
    let weight = params::floats(weight.unwrap_or_else(|| TensorData::from([0.0f32; 0])));
    let [fan_in, rows, groups] = sizes(picked);
    let first = picked.slice.map_or(0, |slice| slice.rows.start);
    // A row of a grouped convolution holds only the channels of its group.
    let all = weight.chunks(fan_in / groups).skip(first).take(rows);
    all.map(<[f32]>::to_vec).collect()
}

/// The frozen weight of a linear layer or a slice of it, from which factors can start.
pub(crate) fn weight(backbone: &dyn Backbone, place: &Place) -> Matrix {
    let rows = rows(backbone, &place.picked).into_iter();
    Matrix::new(
        rows.map(|row| row.into_iter().map(f64::from).collect())
            .collect(),
    )
}

/// The norm of each row of the frozen weight, where DoRA's magnitude starts.
pub(crate) fn row_norms(backbone: &dyn Backbone, picked: &Picked, init: &Init) -> Param<Tensor<1>> {
    let norms: Vec<f32> = rows(backbone, picked)
        .iter()
        .map(|row| row.iter().map(|w| w * w).sum::<f32>().sqrt())
        .collect();
    Param::from_tensor(Tensor::from_data(&norms[..], init.device()))
}
