//! The convolutions of a residual network, and the norm that follows each.

use peft_core::backbone::Init;
use peft_core::layers::{BatchNorm2d, Conv2dSizes};
use peft_core::site::{Site, SiteKind};

/// A 3x3 convolution, padded so that only the stride changes the size of the map.
pub(crate) fn spatial(inputs: usize, outputs: usize, stride: usize) -> Conv2dSizes {
    Conv2dSizes {
        inputs,
        outputs,
        kernel: 3,
        stride,
        padding: 1,
    }
}

/// A 1x1 convolution.
pub(crate) fn pointwise(inputs: usize, outputs: usize, stride: usize) -> Conv2dSizes {
    Conv2dSizes {
        inputs,
        outputs,
        kernel: 1,
        stride,
        padding: 0,
    }
}

/// A BatchNorm of that name in `block`.
pub(crate) fn norm(name: &str, block: usize, channels: usize, init: &Init) -> BatchNorm2d {
    BatchNorm2d::new(Site::new(name, block, SiteKind::Norm { channels }), init)
}
