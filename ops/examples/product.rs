//! Multiplies two matrices some times and prints the largest value of each result, for programs that count
//! instructions:
//! `product ROWS INNER COLUMNS TIMES`.

use burn::tensor::{Device, Tensor};

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .map(|size| size.parse().expect("sizes are whole numbers"))
        .collect();
    let [rows, inner, columns, times] = sizes[..] else {
        panic!("expected ROWS INNER COLUMNS TIMES");
    };
    let device = Device::flex();
    let x = Tensor::<2>::ones([rows, inner], &device);
    let weight = Tensor::<2>::ones([columns, inner], &device);
    for _ in 0..times {
        let y = peft_ops::linear(x.clone(), weight.clone(), None);
        println!("{}", y.max().into_scalar::<f32>());
    }
}
