//! Reductions over the units of a cube, with planes and without.

use cubecl::prelude::*;

use super::cube_device;
use crate::check::noise;
use crate::cube::rows::{Share, plane, reduced};

#[cube(launch)]
fn reduce_twice(
    input: &[f32],
    output: &mut [f32],
    #[comptime] share: Share,
    #[comptime] largest: bool,
) {
    let mut shared = Shared::<[f32]>::new_slice(share.units);
    let unit = UNIT_POS as usize;
    let first = reduced(input[unit], &mut shared, share, largest);
    let second = reduced(input[share.units + unit], &mut shared, share, largest);
    output[unit] = first;
    output[share.units + unit] = second;
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn every_unit_has_the_result_of_all() {
    let client = cube_device().client();
    for plane in [0, plane(&client)] {
        for (units, largest) in [(32, false), (64, true), (256, false), (256, true)] {
            let share = Share {
                vector: 1,
                units,
                each: 1,
                plane,
            };
            let values = noise(2 * units, units as u32);
            let input = client.create_from_slice(f32::as_bytes(&values));
            let output = client.empty(size_of_val(&values[..]));
            // SAFETY: both buffers have two values for each unit.
            let [input, written] = [input, output.clone()]
                .map(|handle| unsafe { BufferArg::from_raw_parts(handle, 2 * units) });
            reduce_twice::launch(
                &client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(units as u32),
                input,
                written,
                share,
                largest,
            );
            let bytes = client.read_one_unchecked(output);
            let got = f32::from_bytes(&bytes);
            for (values, got) in values.chunks(units).zip(got.chunks(units)) {
                let expected: f64 = if largest {
                    values.iter().copied().fold(f32::MIN, f32::max).into()
                } else {
                    values.iter().map(|&value| f64::from(value)).sum()
                };
                for got in got {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(
                        error < 1e-4,
                        "{units} units, planes of {plane}: {got}, {expected}"
                    );
                }
            }
        }
    }
}
