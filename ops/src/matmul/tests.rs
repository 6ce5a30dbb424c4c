//! Products compared with sums in `f64`.

use super::*;
use crate::machine::Caches;
use crate::testing::{noise, short};

/// Compares a sum of two products with `f64`, and with itself on one thread and with gaps between rows.
fn check([m, n]: [usize; 2], inner: [usize; 2], transposed: [bool; 2], added: [bool; 2]) {
    let matrix = |values, [rows, columns]: [usize; 2], transposed| {
        if transposed {
            Matrix::new(values, rows).transposed()
        } else {
            Matrix::new(values, columns)
        }
    };
    let a = inner.map(|k| noise(m * k, 1 + k as u32));
    let b = inner.map(|k| noise(k * n, 2 + k as u32));
    let (bias, residual) = (noise(n, 3), noise(m * n, 4));
    let term = |t: usize| {
        let a = matrix(&a[t], [m, inner[t]], transposed[0]);
        (a, matrix(&b[t], [inner[t], n], transposed[1]))
    };
    let ((a0, b0), (a1, b1)) = (term(0), term(1));
    let product = Product::new([m, inner[0], n], a0, b0)
        .plus(inner[1], a1, b1)
        .with_bias(added[0].then_some(&bias[..]))
        .with_residual(added[1].then_some(&residual[..]));
    let got = product.run();
    let stride = n + 3;
    let mut here = vec![f32::NAN; m * stride];
    // SAFETY: `here` has room for `m` rows of `n` values, `stride` apart, and is borrowed mutably here.
    unsafe { product.run_here(&mut Scratch::new(), Shared::new(&mut here), stride) };
    let value = |x: Matrix, i: usize, j: usize| f64::from(x.values[i * x.row + j * x.column]);
    for i in 0..m {
        for j in 0..n {
            let (mut sum, mut size) = (0.0, 1.0);
            for ((a, b), inner) in [(a0, b0), (a1, b1)].into_iter().zip(inner) {
                for p in 0..inner {
                    let product = value(a, i, p) * value(b, p, j);
                    (sum, size) = (sum + product, size + product.abs());
                }
            }
            if added[0] {
                sum += f64::from(bias[j]);
            }
            if added[1] {
                sum += f64::from(residual[i * n + j]);
            }
            let got = got[i * n + j];
            let error = (f64::from(got) - sum).abs();
            assert!(
                error <= 1e-6 * size,
                "[{i}, {j}]: got {got}, expected {sum}"
            );
            assert_eq!(here[i * stride + j], got, "[{i}, {j}] on one thread");
        }
        assert!(here[i * stride + n..][..3].iter().all(|gap| gap.is_nan()));
    }
}

#[test]
fn products_agree_with_f64() {
    let sizes = [
        [1, 1],
        [14, 32],
        [13, 16],
        [29, 70],
        [5, 33],
        [200, 9],
        [3, 130],
    ];
    // Several pieces, the first and the last of which are no special case if there are more than two.
    let long = if short() { 400 } else { 1700 };
    for size in sizes {
        for inner in [[1, 0], [16, 8], [37, 3], [long, 1]] {
            for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                for added in [[false, false], [true, false], [false, true], [true, true]] {
                    check(size, inner, transposed, added);
                }
            }
        }
    }
}

/// Panels so large that the next one is prefetched, and rows so far apart that they are copied.
#[test]
fn large_products_agree_with_f64() {
    check([9, 260], [1024, 0], [false, false], [true, true]);
}

#[test]
fn a_sum_of_nothing_is_zero_and_an_empty_result_is_empty() {
    check([3, 5], [0, 0], [false, false], [false, false]);
    check([3, 5], [0, 0], [false, false], [true, false]);
    check([0, 5], [4, 1], [false, false], [true, true]);
    check([3, 0], [4, 1], [false, false], [true, true]);
}

#[test]
fn what_is_not_finite_stays_so() {
    for (value, expected) in [(f32::NAN, f32::NAN), (f32::INFINITY, f32::INFINITY)] {
        let (mut a, b) = (vec![1.0; 20 * 40], vec![1.0; 40 * 50]);
        a[3 * 40 + 7] = value;
        let y = Product::new([20, 40, 50], Matrix::new(&a, 40), Matrix::new(&b, 50)).run();
        for (i, y) in y.into_iter().enumerate() {
            let expected = if i / 50 == 3 { expected } else { 40.0 };
            assert!(
                y == expected || (y.is_nan() && expected.is_nan()),
                "{i}: {y}"
            );
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (m, k, n) = (300, 900, 100);
    let (a, b) = (noise(m * k, 1), noise(k * n, 2));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let product = Product::new([m, k, n], Matrix::new(&a, k), Matrix::new(&b, n));
        pool.unwrap().install(|| product.run())
    };
    let one = run(1);
    assert!([2, 3, 7].into_iter().all(|threads| run(threads) == one));
}

/// A machine's caches decide how a product is cut into blocks, but not its values.
#[test]
fn the_caches_change_nothing() {
    let (m, k, n) = (150, 1000, 130);
    let (a, b, c, d) = (
        noise(m * k, 1),
        noise(k * n, 2),
        noise(m * 70, 3),
        noise(70 * n, 4),
    );
    let product = Product::new([m, k, n], Matrix::new(&a, k), Matrix::new(&b, n));
    let product = product.plus(70, Matrix::new(&c, 70), Matrix::new(&d, n));
    let run = |first: usize, second: usize| {
        let caches = Caches {
            first: first << 10,
            second: second << 10,
        };
        product.run_as(&Plan::for_caches(caches, Kernels::current(), &product, 4))
    };
    let expected = run(32, 512);
    for [first, second] in [[4, 32], [16, 128], [48, 2048], [128, 4096]] {
        assert!(
            run(first, second) == expected,
            "caches of {first} and {second} KiB"
        );
    }
}
