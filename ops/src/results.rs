//! A number for what the kernels compute, to the bit.

/// The version of the kernels' results.
///
/// It is raised whenever a kernel computes another output for the same input, be it by one bit, at any
/// level. Activations that were computed under another number, or at another [`level`](crate::level()),
/// must not be mixed with new ones: a cache of activations records both, and ignores what was made under
/// others.
pub const RESULTS: u32 = 7;

#[cfg(all(test, target_arch = "x86_64", not(target_feature = "fma")))]
mod tests {
    use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
    use burn::tensor::{DType, Device, Tensor, TensorData};

    use crate::level::multiplies_bf16;
    use crate::testing::{at_level, noise, on_threads};
    use crate::*;

    const LEVELS: [Level; 3] = [Level::Baseline, Level::Avx2, Level::Avx512];

    /// Hashes of each operation's outputs at each of [`LEVELS`], for this value of [`RESULTS`]. The inputs
    /// are small, but some are cut into several blocks and some fill less than one.
    #[rustfmt::skip]
    const HASHES: [(&str, [u64; 3]); 26] = [
        ("gelu", [0xaba6_eb28_1f83_84f1, 0xce26_5848_bf15_5d58, 0xce26_5848_bf15_5d58]),
        ("gelu_tanh", [0xefd3_b182_437d_ec35, 0x4173_beb4_ab52_c360, 0x4173_beb4_ab52_c360]),
        ("quick_gelu", [0xcca6_53b9_1261_2920, 0xed0f_637b_7221_0cc2, 0xed0f_637b_7221_0cc2]),
        ("swiglu", [0xa3cf_47ef_f6c1_bf36, 0x44a0_1754_3837_142e, 0x44a0_1754_3837_142e]),
        ("swiglu_packed", [0xfb1e_fca1_8689_b740, 0x415a_c612_e20c_3c59, 0x415a_c612_e20c_3c59]),
        ("rotate", [0xec0d_f398_cac3_2323, 0xec0d_f398_cac3_2323, 0xec0d_f398_cac3_2323]),
        ("relu", [0x2ebd_1fa8_f5e7_c117, 0x2ebd_1fa8_f5e7_c117, 0x2ebd_1fa8_f5e7_c117]),
        ("add_relu", [0xe554_fc6a_7a3b_cfbc, 0xe554_fc6a_7a3b_cfbc, 0xe554_fc6a_7a3b_cfbc]),
        ("scale_shift", [0xd638_1294_66d7_2f97, 0x6e0f_f91e_19aa_bf5f, 0x6e0f_f91e_19aa_bf5f]),
        ("layer_norm", [0x6a74_8844_4af7_77c0, 0x6a74_8844_4af7_77c0, 0x6a74_8844_4af7_77c0]),
        ("cross_entropy", [0x4b22_5267_a03f_5fa7, 0x4b22_5267_a03f_5fa7, 0x4b22_5267_a03f_5fa7]),
        ("patches", [0x8804_59bc_231d_18cb, 0x8804_59bc_231d_18cb, 0x8804_59bc_231d_18cb]),
        ("attention", [0x9dd9_b08e_537d_abc5, 0xab2e_b866_8152_afc3, 0xab2e_b866_8152_afc3]),
        ("attention_with_bias", [0x3c26_4135_a730_63bc, 0x21c6_57a0_d853_0155, 0x21c6_57a0_d853_0155]),
        ("linear", [0xf3e3_f946_d132_9efc, 0xf124_c0dc_622c_a18a, 0xf124_c0dc_622c_a18a]),
        ("linear_residual", [0xc27e_3317_2136_4835, 0x591a_cc3d_2c1a_9e26, 0x591a_cc3d_2c1a_9e26]),
        ("linear_gelu", [0x9474_ff82_b526_f82e, 0x9896_f05e_ec26_0332, 0x9896_f05e_ec26_0332]),
        ("linear_low_rank", [0x22bc_4898_1b78_1a81, 0x07cf_0f89_dee0_9775, 0x07cf_0f89_dee0_9775]),
        ("conv2d", [0x96ea_c5fa_4997_bc0a, 0x58ef_eaa9_d493_4b83, 0x58ef_eaa9_d493_4b83]),
        ("conv2d_residual", [0xa1d6_7220_6a3f_0246, 0x5e89_0cb2_1efa_ef27, 0x5e89_0cb2_1efa_ef27]),
        ("conv2d_norm", [0x0334_8579_8e8c_6b68, 0x26ab_8cb5_d26b_549d, 0x26ab_8cb5_d26b_549d]),
        ("depthwise_conv2d", [0x266e_686e_afd2_e0da, 0xaf7d_b187_e6f2_3271, 0xaf7d_b187_e6f2_3271]),
        ("global_response_norm", [0x52f6_fdea_a741_6ce3, 0xe856_1c9c_669c_3c63, 0xe856_1c9c_669c_3c63]),
        ("batch_norm", [0xf15b_c5d2_f079_ccd4, 0xf15b_c5d2_f079_ccd4, 0xf15b_c5d2_f079_ccd4]),
        ("batch_norm_train", [0x8478_d71f_fb51_5671, 0x8478_d71f_fb51_5671, 0x8478_d71f_fb51_5671]),
        ("max_pool2d", [0x5e6e_d183_f219_476e, 0x5e6e_d183_f219_476e, 0x5e6e_d183_f219_476e]),
    ];

    /// Noise of any shape; the same for the same seed.
    fn noisy<const D: usize>(shape: [usize; D], seed: u32) -> Tensor<D> {
        let values = noise(shape.iter().product(), seed);
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn norm(channels: usize) -> FixedNorm {
        FixedNorm {
            gamma: noisy([channels], 21),
            beta: noisy([channels], 22),
            mean: noisy([channels], 23),
            variance: noisy([channels], 24).abs() + 0.1,
            epsilon: 1e-5,
        }
    }

    /// Input, weight and options of convolutions with one window, several blocks of the inner
    /// dimension, a stride, groups, and minimal filtering.
    fn convolutions() -> Vec<(Tensor<4>, Tensor<4>, ConvOptions<2>)> {
        let conv = |x, weight, [stride, padding]: [usize; 2], groups| {
            let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], groups);
            (noisy(x, 31), noisy(weight, 32), options)
        };
        vec![
            conv([2, 70, 1, 1], [9, 70, 1, 1], [1, 0], 1),
            conv([2, 24, 9, 7], [13, 24, 3, 3], [1, 1], 1),
            conv([1, 3, 19, 19], [20, 3, 7, 7], [2, 3], 1),
            conv([2, 8, 6, 6], [8, 2, 3, 3], [1, 1], 4),
            conv([2, 70, 9, 7], [33, 70, 3, 3], [1, 1], 1),
        ]
    }

    /// The outputs of each operation for all of its inputs, one behind the other.
    fn outputs() -> Vec<(&'static str, Vec<f32>)> {
        let mut all: Vec<(&str, Vec<f32>)> = Vec::new();
        let mut add = |name: &'static str, values: Vec<f32>| match all
            .iter_mut()
            .find(|(other, _)| *other == name)
        {
            Some((_, all)) => all.extend(values),
            None => all.push((name, values)),
        };
        fn read<const D: usize>(y: Tensor<D>) -> Vec<f32> {
            y.into_data().iter().collect()
        }

        let line = noisy([700], 1) * 4.0;
        add("gelu", read(gelu(line.clone())));
        add("gelu_tanh", read(gelu_tanh(line.clone())));
        add("quick_gelu", read(quick_gelu(line.clone())));
        add("swiglu", read(swiglu(line.clone(), noisy([700], 2))));
        let rows = noisy([2, 5, 78], 3) * 4.0;
        add("swiglu_packed", read(swiglu_packed(rows.clone())));
        let angles: Vec<f64> = (0..39).map(|i| 0.37 * f64::from(i)).collect();
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
            let rotation = Rotation::new(pairs, 1, 13, &angles);
            add("rotate", read(rotate(rows.clone(), 1, &rotation)));
        }
        add("relu", read(relu(line.clone())));
        add("add_relu", read(add_relu(line, noisy([700], 2))));

        let rows = noisy([2, 5, 77], 3);
        let [gamma, beta] = [4, 5].map(|seed| noisy([77], seed));
        add(
            "scale_shift",
            read(scale_shift(rows.clone(), gamma.clone(), beta.clone())),
        );
        add("layer_norm", read(layer_norm(rows, gamma, beta, 1e-6)));
        add(
            "cross_entropy",
            read(cross_entropy(noisy([9, 37], 6), noisy([9, 37], 7).abs())),
        );
        add("patches", read(patches(noisy([2, 3, 8, 12], 8), [4, 6])));

        let packed = noisy([4, 19, 3 * 2 * 16], 9);
        add("attention", read(attention(packed.clone(), 2)));
        let bias = noisy([2, 2, 19, 19], 10);
        add(
            "attention_with_bias",
            read(attention_with_bias(packed, bias)),
        );

        // Rows and columns that no tile divides, and sums in one piece and in three.
        for [m, k, n] in [[9, 40, 50], [37, 500, 21]] {
            let (x, weight) = (noisy([m, k], 11), noisy([n, k], 12));
            let (bias, residual) = (noisy([n], 13), noisy([m, n], 14));
            let y = linear(x.clone(), weight.clone(), Some(bias.clone()));
            add("linear", read(y));
            let y = linear_residual(
                x.clone(),
                weight.clone(),
                Some(bias.clone()),
                residual.clone(),
            );
            add("linear_residual", read(y));
            for kind in [Gelu::Exact, Gelu::Quick] {
                let (bias, residual) = (Some(bias.clone()), Some(residual.clone()));
                let y = linear_gelu(x.clone(), kind, weight.clone(), bias, residual);
                add("linear_gelu", read(y));
            }
            let factors = [noisy([4, k], 15), noisy([n, 4], 16)];
            add(
                "linear_low_rank",
                read(linear_low_rank(x, weight, Some(bias), factors, 0.7)),
            );
        }

        for (x, weight, options) in convolutions() {
            let channels = weight.dims()[0];
            let y = conv2d(
                x.clone(),
                weight.clone(),
                Some(noisy([channels], 33)),
                options.clone(),
            );
            let residual = noisy(y.dims(), 34);
            add("conv2d", read(y));
            let y = conv2d_residual(x.clone(), weight.clone(), residual.clone(), options.clone());
            add("conv2d_residual", read(y));
            for (residual, relu) in [(None, false), (Some(residual), true)] {
                let (x, weight, options) = (x.clone(), weight.clone(), options.clone());
                add(
                    "conv2d_norm",
                    read(conv2d_norm(
                        x,
                        weight,
                        options,
                        norm(channels),
                        residual,
                        relu,
                    )),
                );
            }
        }

        // Channels that registers leave over, and fewer than a register has.
        for [size, channels] in [[9, 40], [5, 6]] {
            let (x, weight) = (
                noisy([2, size, 7, channels], 45),
                noisy([channels, 1, 7, 7], 46),
            );
            let y = depthwise_conv2d(x, weight, Some(noisy([channels], 47)), [3, 3]);
            add("depthwise_conv2d", read(y));
        }
        let (x, [weight, bias]) = (
            noisy([2, 9, 8, 21], 48),
            [49, 50].map(|seed| noisy([21], seed)),
        );
        let y = global_response_norm(x, weight, bias, 1e-6);
        add("global_response_norm", read(y));

        // Maps that are short, so that those of all images are put side by side, and one that is not.
        for shape in [[3, 6, 5, 7], [2, 4, 9, 11]] {
            let (x, residual) = (noisy(shape, 41), noisy(shape, 42));
            let y = batch_norm(x.clone(), norm(shape[1]), Some(residual.clone()), true);
            add("batch_norm", read(y));
            let affine = [43, 44].map(|seed| noisy([shape[1]], seed));
            let y = batch_norm_train(x.clone(), affine, 1e-5, Some(residual), false);
            add(
                "batch_norm_train",
                [read(y.output), read(y.mean), read(y.variance)].concat(),
            );
            let options = MaxPoolOptions::new([3, 3])
                .with_stride([2, 2])
                .with_padding([1, 1]);
            add("max_pool2d", read(max_pool2d(x, options)));
        }
        all
    }

    /// FNV-1a of the bits.
    fn hash(values: &[f32]) -> u64 {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_bits().to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn the_current_level_computes_what_its_hashes_say() {
        let level = level().unwrap().of_f32();
        // Nothing is pinned for Burn's own operations.
        let Some(column) = LEVELS.iter().position(|other| *other == level) else {
            return;
        };
        let hashes = |threads| -> Vec<(&str, u64)> {
            let outputs = on_threads(threads, outputs).into_iter();
            outputs
                .map(|(name, values)| (name, hash(&values)))
                .collect()
        };
        let got = hashes(1);
        assert_eq!(got, hashes(3), "results depend on the number of threads");
        let expected = HASHES.map(|(name, hashes)| (name, hashes[column]));
        let row = |(name, hash): &(&str, u64)| format!("{name}: {hash:#018x}");
        let changed = got.iter().filter(|got| !expected.contains(got)).map(row);
        let changed: Vec<String> = changed.collect();
        assert!(
            got == expected,
            "results of the kernels changed at level {}: raise RESULTS and write the new hash\n{}",
            level.name(),
            changed.join("\n")
        );
    }

    /// Hashes of linear layers in bf16 where [`multiplies_bf16`], for this value of [`RESULTS`]. Everywhere else they are
    /// those of `f32`, rounded.
    #[rustfmt::skip]
    const IN_BF16: [(&str, u64); 3] = [
        ("linear_residual", 0xa9ab_1d7b_dc34_ad2b),
        ("linear_gelu", 0x3c90_2551_13d6_c619),
        ("linear_low_rank", 0x490b_3271_6e17_6284),
    ];

    #[test]
    fn linear_layers_in_bf16_compute_what_their_hashes_say() {
        if !multiplies_bf16() {
            return;
        }
        // An odd number of values in a sum, and several pieces.
        let [m, k, n] = [37, 2051, 50];
        fn narrow<const D: usize>(shape: [usize; D], seed: u32) -> Tensor<D> {
            noisy(shape, seed).cast(DType::BF16)
        }
        let (x, weight, bias) = (narrow([m, k], 11), narrow([n, k], 12), narrow([n], 13));
        let (residual, factors) = (narrow([m, n], 14), [narrow([4, k], 15), narrow([n, 4], 16)]);
        let outputs = |threads| {
            on_threads(threads, || {
                let (bias, residual) = (Some(bias.clone()), residual.clone());
                let [a, b, c] = [0; 3].map(|_| (x.clone(), weight.clone()));
                [
                    linear_residual(a.0, a.1, bias.clone(), residual),
                    linear_gelu(b.0, Gelu::Exact, b.1, bias.clone(), None),
                    linear_low_rank(c.0, c.1, bias, factors.clone(), 0.7),
                ]
                .map(|y| hash(&y.into_data().iter().collect::<Vec<f32>>()))
            })
        };
        let got = outputs(1);
        assert_eq!(got, outputs(3), "results depend on the number of threads");
        let expected = IN_BF16.map(|(_, hash)| hash);
        assert!(
            got == expected,
            "results in bf16 changed: raise RESULTS and write the new hashes\n{got:#018x?}"
        );
    }

    /// A process has one level, so each runs the test above in a process of its own.
    #[test]
    fn each_level_computes_what_its_hashes_say() {
        for level in LEVELS.into_iter().filter(|level| level.available()) {
            let test = "results::tests::the_current_level_computes_what_its_hashes_say";
            at_level(level, test);
        }
    }
}
