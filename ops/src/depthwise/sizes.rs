//! The sizes of a depthwise convolution.

/// The sizes of a depthwise convolution; each pair is rows and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) channels: usize,
    /// The size of a map that is read.
    pub(super) size: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) padding: [usize; 2],
}

impl Sizes {
    /// Nothing if the sizes do not fit together, which Burn's operation reports, if a map is empty, or if the
    /// padding is wider than what a kernel reaches beyond the map.
    pub(super) fn new(
        [_, height, width, channels]: [usize; 4],
        [outputs, inputs, down, across]: [usize; 4],
        padding: [usize; 2],
    ) -> Option<Self> {
        let (size, kernel) = ([height, width], [down, across]);
        let fits = |i: usize| {
            size[i] > 0 && kernel[i] <= size[i] + 2 * padding[i] && padding[i] < kernel[i]
        };
        let fits = channels > 0 && (outputs, inputs) == (channels, 1) && fits(0) && fits(1);
        fits.then_some(Self {
            channels,
            size,
            kernel,
            padding,
        })
    }

    /// The size of a map that is written.
    pub(super) fn grid(&self) -> [usize; 2] {
        [0, 1].map(|i| self.size[i] + 2 * self.padding[i] + 1 - self.kernel[i])
    }

    /// Values of a map that is read.
    pub(super) fn input(&self) -> usize {
        self.size[0] * self.size[1] * self.channels
    }

    /// Values of a map that is written.
    pub(super) fn output(&self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns * self.channels
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// The convolution whose input is this one's output: that of the gradients.
    pub(super) fn turned(&self) -> Self {
        Self {
            size: self.grid(),
            padding: [0, 1].map(|i| self.kernel[i] - 1 - self.padding[i]),
            ..*self
        }
    }
}
