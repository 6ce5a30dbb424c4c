//! FourierFT: a few trained frequencies of the change of a weight.
//!
//! Reference: "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform", Gao et al., 2024, Eqs. 2 to
//! 4. Sites, names and the places of the frequencies as in HF PEFT.
//!
//! `W' = W + s Re(ifft2(F))`, where `F [out, in]` is zero but for `n` trained coefficients `c`, at places that
//! follow from `seed` by PyTorch's generator and are the same for all sites of one size. With the angle
//! `a = 2 pi (k u / out + l v / in)` of coefficient `(u, v)` at entry `(k, l)`, the change is
//! `s / (out in) sum c cos a`: a product of constant matrices around `diag(c)`. Parameters: `n` per site.
//!
//! Departures: the coefficients start at zero, so that an adapted model starts as the backbone; the paper
//! and HF PEFT draw them standard normal, which is `init: normal`. HF PEFT adapts linear layers only; here
//! the kernel of a convolution is the matrix `[out, in / groups * kh * kw]`. `query`, `key` and `value`
//! adapt those rows of a fused projection.

mod waves;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::described::{DescribedSite, Formula};
use peft_core::error::Result;
use peft_core::hf_peft::{HfPeft, Imported, exactly, read_parts, write_parts};
use peft_core::hooks::SiteAct;
use peft_core::layer_sites::{LayerSite, layer_sites};
use peft_core::layout::Layout;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::params::Tensors;
use peft_core::plug::{BySite, Named};
use peft_core::random::Distribution;
use peft_core::site::{Site, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use waves::{Size, Waves};

/// Train a few frequencies of the change of weights.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fourierft {
    /// Number `n` of frequencies at each site, at least 1. Default 1000.
    pub frequencies: usize,
    /// Factor `s` of the change, any finite number. Default 150.
    pub scaling: f64,
    /// The seed of the frequencies' places, HF PEFT's `random_loc_seed`. Default 777.
    pub seed: u64,
    /// The initial values of the coefficients. Default `zero`.
    pub init: Start,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`, `key` and
    /// `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else the
    /// layers of the MLPs (`mlp.fc1`, `mlp.fc2`), else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

/// The initial values of coefficients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// All zero, which keeps the backbone's outputs.
    #[default]
    Zero,
    /// Standard normal, as in the paper.
    Normal,
}

impl Default for Fourierft {
    fn default() -> Self {
        Self {
            frequencies: 1000,
            scaling: 150.0,
            seed: 777,
            init: Start::default(),
            targets: None,
        }
    }
}

impl Fourierft {
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<LayerSite<'a>>> {
        check::at_least_one("frequencies", self.frequencies)?;
        check::finite("scaling", self.scaling)?;
        let spec = backbone.spec();
        let sites = layer_sites("fourierft", self.targets.as_ref(), spec)?;
        let small = |site: &&LayerSite| site.rows * site.columns < self.frequencies;
        match sites.iter().find(small) {
            None => Ok(sites),
            Some(site) => {
                let reason = format!(
                    "{} has {} weights; expected at least the {} frequencies",
                    site.name(),
                    site.rows * site.columns,
                    self.frequencies
                );
                Err(spec.unfit("fourierft", reason))
            }
        }
    }
}

#[typetag::serde(name = "fourierft")]
impl AdaptationMethod for Fourierft {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let values = match self.init {
            Start::Zero => Distribution::Zeros,
            Start::Normal => Distribution::Normal(0.0, 1.0),
        };
        let (mut spectra, mut waves) = (Vec::new(), Vec::<(Size, Waves)>::new());
        for site in self.sites(backbone)? {
            let size = Size(site.rows, site.columns);
            if !waves.iter().any(|(own, _)| *own == size) {
                waves.push((
                    size,
                    Waves::new(size, self.frequencies, self.seed, init.device()),
                ));
            }
            let name = format!("{}.fourierft_spectrum", site.name());
            let spectrum = Spectrum {
                fourierft_spectrum: init.param(&name, [self.frequencies], values),
            };
            spectra.push((site.name().to_owned(), spectrum));
        }
        Ok(Attachment::adapter(FourierftAdapter {
            spectra: spectra.into_iter().collect(),
            waves: waves.into_iter().collect(),
            scaling: self.scaling,
            seed: self.seed,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        Ok(self.sites(backbone)?.len() * self.frequencies)
    }

    fn starts_as_backbone(&self) -> bool {
        self.init == Start::Zero
    }
}

/// The coefficients of a [`Fourierft`] by site, and the waves that they scale by the size of a weight.
#[derive(Module, Debug)]
pub struct FourierftAdapter {
    spectra: BySite<Spectrum>,
    waves: Named<Size, Waves>,
    scaling: f64,
    #[module(skip)]
    seed: u64,
}

/// `c [n]` at one site, under HF PEFT's name.
#[derive(Module, Debug)]
struct Spectrum {
    fourierft_spectrum: Param<Tensor<1>>,
}

impl Adapter for FourierftAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        SiteAct::weights(&self.spectra, site, move |spectrum, weight| {
            self.changed(spectrum, weight)
        })
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let columns = site.columns();
        DescribedSite::changed_weights(site, |name, rows| {
            self.spectra.get(name)?;
            let coefficients = Formula::parameter(format!("{name}.{}", PARTS[0]));
            let waves = Formula::Waves {
                shape: [rows, columns],
                seed: self.seed,
                of: Box::new(coefficients),
            };
            Some(waves.scaled(self.scaling / (rows * columns) as f64))
        })
    }
}

impl FourierftAdapter {
    /// # Shapes
    /// `[out, in] -> [out, in]`.
    fn changed(&self, spectrum: &Spectrum, weight: Tensor<2>) -> Tensor<2> {
        let [rows, columns] = weight.dims();
        let Some(waves) = self.waves.get(&Size(rows, columns)) else {
            unreachable!("every size has its waves")
        };
        let scale = self.scaling / (rows * columns) as f64;
        weight + waves.sum(spectrum.fourierft_spectrum.val()) * scale
    }
}

const PARTS: [&str; 1] = ["fourierft_spectrum"];

fn write(
    fourierft: &Fourierft,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<HfPeft> {
    let sites = fourierft.sites(backbone)?;
    let folder = write_parts(&sites, backbone, layout, "fourierft", &PARTS, values)?;
    Ok(folder.with_fields(json!({
        "peft_type": "FOURIERFT",
        "n_frequency": fourierft.frequencies,
        "scaling": fourierft.scaling,
        "random_loc_seed": fourierft.seed,
        "fan_in_fan_out": false,
        "bias": "none",
        "n_frequency_pattern": {},
        "init_weights": fourierft.init == Start::Zero,
    })))
}

fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    let any = [
        "n_frequency",
        "scaling",
        "random_loc_seed",
        "bias",
        "init_weights",
        "layers_to_transform",
        "layers_pattern",
    ];
    given.refuse_all_but_any(&any, &[])?;
    let parts = read_parts(given, backbone, layout, "fourierft", &PARTS)?;
    let zero = given.field("init_weights") == &json!(true);
    Ok(Imported {
        methods: vec![json!({
            "name": "fourierft",
            "frequencies": given.number("n_frequency")? as usize,
            "scaling": given.number("scaling")?,
            "seed": given.number("random_loc_seed")? as u64,
            "init": if zero { Start::Zero } else { Start::Normal },
            "targets": exactly(&parts.names),
        })],
        tensors: parts.tensors,
        head_delta: None,
        remarks: parts.remarks,
    })
}

peft_core::register!(
    Method, Fourierft,
    name: "fourierft",
    summary: "a few trained frequencies of the change of frozen weights",
    reference: "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, Gao et al., 2024",
    example: "name: fourierft\nfrequencies: 1000\nscaling: 150.0\ninit: zero\n",
    hf_peft: { peft_type: "FOURIERFT", read: read, write: write },
);

#[cfg(test)]
mod tests;
