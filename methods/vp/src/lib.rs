//! Visual prompts: a trained perturbation of the whole image, of its border, or a frame around a
//! smaller copy of it.
//!
//! References: "Exploring Visual Prompts for Adapting Large-Scale Models", Bahng et al., 2022 (`full`
//! and `border`); "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", Chen
//! et al., 2023 (`frame`, resize and concatenate).
//!
//! `full`, `border`: `x <- x + delta` on the normalised image, `delta` zero inside the border.
//! `frame`: the image is loaded at `inner` pixels and set into a frame whose pixels are `sigmoid(v)`
//! (or `v`), normalised as the backbone's images are: `(sigmoid(v) - mean) / std`. Parameters on images of
//! `H x W` pixels: `3 H W`; `3 (H W - (H - 2 w)(W - 2 w))`, which is `12 w (S - w)` on a square; `3 (H W -
//! h w)` around `h x w`. A border and a frame are stored as four strips, as in Bahng's code. If
//! `H - h` or `W - w` is odd, the lower or the right strip is a pixel wider.
//!
//! Departure: a delta starts at zero, so that an adapted model starts as the backbone; Bahng's code
//! draws it from a normal distribution. With a frame the model cannot start as the backbone.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use peft_core::activation::Activation;
use peft_core::backbone::{Backbone, ImageSize, Init, InputSpec};
use peft_core::described::{DescribedBoundary, Formula};
use peft_core::error::{Error, Result};
use peft_core::hooks::{BoundaryAct, like};
use peft_core::layers::BoundaryTensor;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::random::Distribution;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Perturb the image.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Vp {
    /// The pixels that the prompt covers. Default `full`.
    pub kind: Kind,
    /// Width of the border of kind `border` in pixels, at least 1 and less than half of the image's
    /// shorter side. Default 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Rows and columns in pixels to which kind `frame` shrinks the image, at least 1 and less than those
    /// of the backbone's input: a number for a square, or `[height, width]`. Default 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner: Option<ImageSize>,
    /// Whether the pixels of kind `frame` are a sigmoid of the trained values, and so stay in `(0, 1)`.
    /// Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmoid: Option<bool>,
}

/// The pixels that a prompt covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Added to every pixel.
    #[default]
    Full,
    /// Added to the pixels of the border.
    Border,
    /// Around a smaller copy of the image.
    Frame,
}

const WIDTH: usize = 30;
const INNER: usize = 128;
const CHANNELS: usize = 3;

impl Vp {
    /// Widths of the strips around images of `size` pixels: the upper and the lower one, the left and the
    /// right one; none for kind `full`.
    fn widths(&self, size: ImageSize) -> Result<Option<[[usize; 2]; 2]>> {
        let given = [
            ("width", self.width.is_some(), Kind::Border),
            ("inner", self.inner.is_some(), Kind::Frame),
            ("sigmoid", self.sigmoid.is_some(), Kind::Frame),
        ];
        // A field of another kind would be ignored in silence.
        if let Some((field, _, owner)) =
            given.iter().find(|(_, is, kind)| *is && *kind != self.kind)
        {
            let owner = format!("{owner:?}").to_lowercase();
            return Err(Error::config(
                *field,
                format!("only kind {owner} has this field"),
            ));
        }
        let within = |field: &str, value: ImageSize, limit: ImageSize| {
            let sides = value.sides().into_iter().zip(limit.sides());
            if sides
                .clone()
                .all(|(side, limit)| (1..=limit).contains(&side))
            {
                return Ok(());
            }
            let message =
                format!("expected 1 to {limit} pixels on images of {size} pixels, got {value}");
            Err(Error::config(field, message))
        };
        match self.kind {
            Kind::Full => Ok(None),
            Kind::Border => {
                let width = self.width.unwrap_or(WIDTH);
                let limit = (size.shorter() - 1) / 2;
                within("width", width.into(), limit.into())?;
                Ok(Some([[width; 2]; 2]))
            }
            Kind::Frame => {
                let inner = self.inner.unwrap_or(INNER.into());
                within("inner", inner, size.map(|side| side - 1))?;
                let around = |size: usize, inner: usize| {
                    let rest = size - inner;
                    [rest / 2, rest - rest / 2]
                };
                Ok(Some([
                    around(size.height, inner.height),
                    around(size.width, inner.width),
                ]))
            }
        }
    }
}

#[typetag::serde(name = "vp")]
impl AdaptationMethod for Vp {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let spec = backbone.spec();
        Ok(Attachment::adapter(match self.widths(spec.input.size)? {
            None => {
                let shape = spec.boundary(0)?.shape;
                let prompt = BoundaryTensor::new("prompt", shape, Distribution::Zeros, init);
                VpAdapter::Full(Full { prompt })
            }
            Some(widths) => {
                let pixels = (self.kind == Kind::Frame).then_some(Pixels {
                    mean: spec.input.mean,
                    std: spec.input.std,
                    sigmoid: self.sigmoid.unwrap_or(true),
                });
                VpAdapter::Strips(Strips::new(spec.input.size, widths, pixels, init))
            }
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let size = backbone.spec().input.size;
        let inner = self.widths(size)?.map(|widths| inside(size, widths));
        Ok(CHANNELS * (size.pixels() - inner.map_or(0, ImageSize::pixels)))
    }

    fn input(&self, backbone: InputSpec) -> Result<InputSpec> {
        let widths = self.widths(backbone.size)?;
        Ok(match (self.kind, widths) {
            (Kind::Frame, Some(widths)) => InputSpec {
                size: inside(backbone.size, widths),
                ..backbone
            },
            _ => backbone,
        })
    }

    fn starts_as_backbone(&self) -> bool {
        self.kind != Kind::Frame
    }
}

/// The part of an image that strips of these widths leave.
fn inside(size: ImageSize, [[up, down], [left, right]]: [[usize; 2]; 2]) -> ImageSize {
    ImageSize::new(size.height - up - down, size.width - left - right)
}

/// The prompt of a [`Vp`].
#[allow(clippy::large_enum_variant, reason = "made once per model")]
#[derive(Module, Debug)]
pub enum VpAdapter {
    /// Over the whole image.
    Full(Full),
    /// Around it.
    Strips(Strips),
}

/// A delta with the shape of the image.
#[derive(Module, Debug)]
pub struct Full {
    prompt: BoundaryTensor,
}

/// Four strips around an image: a border that is added, or a frame that replaces the pixels.
#[derive(Module, Debug)]
pub struct Strips {
    /// `[3, rows, W]`.
    up: Param<Tensor<3>>,
    /// `[3, rows, W]`.
    down: Param<Tensor<3>>,
    /// `[3, h, columns]`, `h` rows between the upper and the lower strip.
    left: Param<Tensor<3>>,
    /// `[3, h, columns]`.
    right: Param<Tensor<3>>,
    /// The conversion of the values of a frame to pixels; none for a border.
    #[module(skip)]
    pixels: Option<Pixels>,
}

/// Turns trained values into normalised pixels.
#[derive(Clone, Debug)]
struct Pixels {
    mean: [f32; CHANNELS],
    std: [f32; CHANNELS],
    sigmoid: bool,
}

impl Pixels {
    fn normalised(&self, v: Tensor<3>) -> Tensor<3> {
        let device = v.device();
        let by_channel = |values: [f32; CHANNELS]| {
            Tensor::<1>::from_floats(values, &device).reshape([CHANNELS, 1, 1])
        };
        let pixels = if self.sigmoid { sigmoid(v) } else { v };
        (pixels - by_channel(self.mean)) / by_channel(self.std)
    }
}

impl Strips {
    fn new(size: ImageSize, widths: [[usize; 2]; 2], pixels: Option<Pixels>, init: &Init) -> Self {
        let [[before, after], [first, last]] = widths;
        let inner = inside(size, widths).height;
        let strip = |name: &str, height, width| {
            init.param(name, [CHANNELS, height, width], Distribution::Zeros)
        };
        Self {
            up: strip("up", before, size.width),
            down: strip("down", after, size.width),
            left: strip("left", inner, first),
            right: strip("right", inner, last),
            pixels,
        }
    }

    /// Puts the strips around an image.
    ///
    /// # Shapes
    /// `[b, 3, h, w] -> [b, 3, H, W]`.
    fn around(&self, inner: Tensor<4>) -> Tensor<4> {
        let batch = inner.dims()[0];
        let strip = |param: &Param<Tensor<3>>| {
            let value = match &self.pixels {
                Some(pixels) => pixels.normalised(param.val()),
                None => param.val(),
            };
            let [c, h, w] = value.dims();
            like(value, &inner)
                .unsqueeze::<4>()
                .expand([batch, c, h, w])
        };
        let (left, right) = (strip(&self.left), strip(&self.right));
        let (up, down) = (strip(&self.up), strip(&self.down));
        let middle = Tensor::cat(vec![left, inner, right], 3); // [b, 3, h, W]
        Tensor::cat(vec![up, middle, down], 2)
    }

    fn described(&self) -> DescribedBoundary {
        let [up, down, left, right] = ["up", "down", "left", "right"].map(Formula::parameter);
        match &self.pixels {
            Some(pixels) => DescribedBoundary::Frame {
                strips: Box::new([up, down, left, right]),
                sigmoid: pixels.sigmoid,
                mean: pixels.mean,
                std: pixels.std,
            },
            None => {
                let inside = Formula::zeros(self.inside());
                let middle = Formula::cat(2, [left, inside, right]);
                let value = Formula::cat(1, [up, middle, down]);
                DescribedBoundary::Add { value }
            }
        }
    }

    /// The shape of the image between the strips, `[3, h, w]`.
    fn inside(&self) -> [usize; 3] {
        let [channels, height, first] = self.left.dims();
        let width = self.up.dims()[2] - first - self.right.dims()[2];
        [channels, height, width]
    }

    fn act(&self) -> BoundaryAct<'_> {
        if self.pixels.is_none() {
            let [channels, height, width] = self.inside();
            // A border is an addition and so can be data, which core applies by itself; a frame
            // replaces pixels, so it must be a function.
            let zeros = Tensor::zeros([1, channels, height, width], &self.up.val().device());
            return BoundaryAct::Add(Activation::Map(self.around(zeros)));
        }
        BoundaryAct::Function(Box::new(|x, _| match x {
            Activation::Map(image) => Activation::Map(self.around(image)),
            x => panic!("a frame goes around an image, not around {:?}", x.shape()),
        }))
    }
}

impl Adapter for VpAdapter {
    fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
        (index == 0).then(|| match self {
            Self::Full(full) => BoundaryAct::Add(full.prompt.value()),
            Self::Strips(strips) => strips.act(),
        })
    }

    fn describe_boundary(&self, index: usize) -> Option<DescribedBoundary> {
        (index == 0).then(|| match self {
            Self::Full(_) => DescribedBoundary::Add {
                value: Formula::parameter("prompt"),
            },
            Self::Strips(strips) => strips.described(),
        })
    }
}

peft_core::register!(
    Method, Vp,
    name: "vp",
    summary: "visual prompt: a trained perturbation of the image, its border or a frame around it",
    reference: "Exploring Visual Prompts for Adapting Large-Scale Models, Bahng et al., 2022",
    example: "name: vp\nkind: border\nwidth: 4\n# kind: frame has inner: 128 and sigmoid: true\n",
);

#[cfg(test)]
mod tests;
