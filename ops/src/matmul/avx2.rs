//! The run of a tile with AVX2, in assembly.
//!
//! Sixteen registers hold the twelve sums of a tile, a row of `b` and a value of `a`, and nothing else. The
//! compiler finds the right instructions, but puts the addresses of the rows of `a` into one chain of
//! additions, each of which waits for the one before: as many cycles a column as the products take, so that
//! they run at two thirds of the speed. Here two pointers, three rows apart, reach all six rows.

use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of the tile.
pub(super) const ROWS: usize = 6;

/// Adds the products of one column of `a` with a row of `b`. The row is in `ymm0` and `ymm1`, the sums
/// are in `ymm4` to `ymm15`.
macro_rules! column {
    ($value:literal, $address:literal, $left:literal, $right:literal) => {
        concat!(
            "vbroadcastss ",
            $value,
            ", dword ptr ",
            $address,
            "\n",
            "vfmadd231ps ",
            $left,
            ", ",
            $value,
            ", ymm0\n",
            "vfmadd231ps ",
            $right,
            ", ",
            $value,
            ", ymm1\n",
        )
    };
}

/// All rows of a column of `a`, and the way to the next column and row of `b`.
macro_rules! step {
    () => {
        concat!(
            "vmovups ymm0, ymmword ptr [{b}]\n",
            "vmovups ymm1, ymmword ptr [{b} + 32]\n",
            column!("ymm2", "[{upper}]", "ymm4", "ymm5"),
            column!("ymm3", "[{upper} + {row}]", "ymm6", "ymm7"),
            column!("ymm2", "[{upper} + 2*{row}]", "ymm8", "ymm9"),
            column!("ymm3", "[{lower}]", "ymm10", "ymm11"),
            column!("ymm2", "[{lower} + {row}]", "ymm12", "ymm13"),
            column!("ymm3", "[{lower} + 2*{row}]", "ymm14", "ymm15"),
            "add {upper}, {column}\n",
            "add {lower}, {column}\n",
            "add {b}, 64\n",
        )
    };
}

/// The sums of `count` products each, for a tile of six rows of sixteen.
///
/// # Safety
/// The CPU has AVX2 and FMA. `b` has as many rows of 16 values as `count` says, and `a` six rows of as
/// many values, at the strides from row to row and from column to column.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(
    a: *const f32,
    [row, column]: [usize; 2],
    b: *const f32,
    count: usize,
) -> [[__m256; 2]; ROWS] {
    // SAFETY: zero is a value of these registers, the CPU has them, and the loop reads what the caller
    // vouches for, two columns at a time while there are two.
    unsafe {
        let mut s = [[_mm256_setzero_ps(); 2]; ROWS];
        asm!(
            "sub {count}, 2",
            "jb 3f",
            ".p2align 5",
            "2:",
            step!(),
            step!(),
            "sub {count}, 2",
            "jae 2b",
            "3:",
            "test {count}, 1",
            "jz 4f",
            step!(),
            "4:",
            upper = inout(reg) a => _,
            lower = inout(reg) a.wrapping_add(3 * row) => _,
            b = inout(reg) b => _,
            count = inout(reg) count => _,
            row = in(reg) size_of::<f32>() * row,
            column = in(reg) size_of::<f32>() * column,
            inout("ymm4") s[0][0], inout("ymm5") s[0][1], inout("ymm6") s[1][0], inout("ymm7") s[1][1],
            inout("ymm8") s[2][0], inout("ymm9") s[2][1], inout("ymm10") s[3][0], inout("ymm11") s[3][1],
            inout("ymm12") s[4][0], inout("ymm13") s[4][1], inout("ymm14") s[5][0], inout("ymm15") s[5][1],
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            options(nostack, readonly),
        );
        s
    }
}

/// Transposes a square of 8 by 8 values, as [`Register::transpose`](super::register::Register::transpose)
/// says: pairs of rows within halves of the registers, pairs of pairs, then halves.
///
/// # Safety
/// The CPU has AVX. 8 values of each of 8 rows may be read, and of each of 8 lines be written.
#[target_feature(enable = "avx")]
pub(super) unsafe fn transpose(from: *const f32, row: usize, to: *mut f32, line: usize) {
    // Halves of two rows, four apart, side by side: column `c` and `4 + c` of both are then moved alike.
    let halves = |i: usize, half: usize| {
        // SAFETY: rows `i` and `4 + i` are two of the 8 rows of 8 values that the caller vouches for.
        unsafe {
            let low = _mm_loadu_ps(from.add(i * row + 4 * half));
            let high = _mm_loadu_ps(from.add((4 + i) * row + 4 * half));
            _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
        }
    };
    for half in 0..2 {
        let rows: [_; 4] = std::array::from_fn(|i| halves(i, half));
        let pair = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let ((low, high), (low_2, high_2)) = (pair(rows[0], rows[1]), pair(rows[2], rows[3]));
        let columns = [
            _mm256_shuffle_ps::<0x44>(low, low_2),
            _mm256_shuffle_ps::<0xee>(low, low_2),
            _mm256_shuffle_ps::<0x44>(high, high_2),
            _mm256_shuffle_ps::<0xee>(high, high_2),
        ];
        for (c, column) in columns.into_iter().enumerate() {
            // SAFETY: `4 half + c` is one of the 8 lines of 8 values that the caller vouches for.
            unsafe { _mm256_storeu_ps(to.add((4 * half + c) * line), column) };
        }
    }
}
