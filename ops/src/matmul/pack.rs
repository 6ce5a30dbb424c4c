//! Packing of the factors of a product into lines without a gap.

use super::register::Register;

/// Packs lines `WIDTH` values wide.
///
/// # Safety
/// As for [`Pack`](super::kernel::Pack) with `count` at most `WIDTH`: the values may be read, `to` has room for `depth * WIDTH`
/// values, which nobody else uses meanwhile, and the level of the register is current.
#[inline(always)]
pub(super) unsafe fn pack<R: Register, const WIDTH: usize>(
    from: *const f32,
    [line, value]: [usize; 2],
    depth: usize,
    count: usize,
    to: *mut f32,
) {
    debug_assert!(count <= WIDTH);
    let mut start = 0;
    if count == WIDTH && value == 1 {
        for i in 0..depth {
            // SAFETY: a line has `WIDTH` neighbouring values to read, and there is room for it. An array
            // of `f32` is aligned as one of them.
            unsafe { *to.add(i * WIDTH).cast::<[f32; WIDTH]>() = *from.add(i * line).cast() };
        }
        return;
    }
    // Lines that run down the columns of the source: square blocks of it are transposed in registers.
    if count == WIDTH && WIDTH.is_multiple_of(R::LANES) && line == 1 {
        while start + R::LANES <= depth {
            for j in (0..WIDTH).step_by(R::LANES) {
                // SAFETY: each of the `WIDTH` values of a line has its `depth` successors in the lines
                // below as neighbours, of which `LANES` from `start` on are left. There is room for as
                // many lines, and the caller vouches for the level.
                unsafe {
                    let to = to.add(start * WIDTH + j);
                    R::transpose(from.add(j * value + start), value, to, WIDTH);
                }
            }
            start += R::LANES;
        }
    }
    for i in start..depth {
        for j in 0..WIDTH {
            // SAFETY: `from` is read only where a line has values, of which there are `count`, and there is
            // room for `depth` lines.
            unsafe {
                let place = to.add(i * WIDTH + j);
                *place = if j < count {
                    *from.add(i * line + j * value)
                } else {
                    0.0
                };
            }
        }
    }
}
