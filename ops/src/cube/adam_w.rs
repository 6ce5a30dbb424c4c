//! A step of AdamW (Loshchilov and Hutter 2019): parameter, moments and gradient are read once, and the first three are
//! written once, in one launch for each trained tensor.
//!
//! `m' = beta_1 m + (1 - beta_1) g`, `v' = beta_2 v + (1 - beta_2) g^2`,
//! `p' = decay p - lr (m' / c_1) / (sqrt(v' / c_2) + epsilon)`, with `decay = 1 - lr weight_decay` and the corrections
//! `c_i = 1 - beta_i^t` of step `t`.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, backend_extension};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::node::element;
use super::rows::{Rows, UNITS, cubes, vector};
use super::step::Step;

#[backend_extension(Cube, Fusion)]
pub(super) trait AdamWs: Backend {
    /// The parameter and both moments after the step.
    ///
    /// # Shapes
    /// All the same.
    #[fusion(meta = |p, m, v, _gradient, _step| (p.clone(), m.clone(), v.clone()))]
    fn adam_w_step(
        p: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl AdamWs for CubeBackend {
    fn adam_w_step(
        p: CubeTensor,
        m: CubeTensor,
        v: CubeTensor,
        gradient: CubeTensor,
        step: Step,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let old = [p, m, v, gradient].map(Rows::of);
        let new = [old[0].like(), old[1].like(), old[2].like()];
        advance(&old, step, &new);
        let [p, m, v] = new.map(|rows| rows.tensor);
        (p, m, v)
    }
}

/// The parameter and both moments after a step of tensors that kernels take.
pub(super) fn step([p, m, v, gradient]: [DispatchTensor; 4], step: Step) -> [DispatchTensor; 3] {
    #[cfg(test)]
    super::node::STEPS.set(super::node::STEPS.get() + 1);
    let (p, m, v) = Dispatch::adam_w_step(p, m, v, gradient, step);
    [p, m, v]
}

/// Writes the parameter and both moments after the step, from those before it and the gradient.
pub(super) fn advance(old: &[Rows; 4], step: Step, new: &[Rows; 3]) {
    let together: Vec<&Rows> = old.iter().chain(new).collect();
    let size = vector(&together);
    let [p, m, v, gradient] = old;
    let [p_after, m_after, v_after] = new;
    let client = &p.tensor.client;
    let count = p.count * p.width / size;
    // SAFETY: the kernel leaves what is beyond `count` vectors alone.
    unsafe {
        advanced::launch_unchecked(
            client,
            cubes(client, count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            size,
            p.arg(),
            m.arg(),
            v.arg(),
            gradient.arg(),
            p_after.arg(),
            m_after.arg(),
            v_after.arg(),
            count,
            p.width / size,
            p.pitch / size,
            m.pitch / size,
            v.pitch / size,
            gradient.pitch / size,
            p_after.pitch / size,
            m_after.pitch / size,
            v_after.pitch / size,
            step.betas[0],
            step.betas[1],
            step.epsilon,
            step.corrections[0],
            step.corrections[1],
            step.lr,
            step.decay,
            element(p.tensor.dtype),
        );
    }
}

#[cube(launch_unchecked)]
fn advanced<F: Float, N: Size>(
    p: &[Vector<F, N>],
    m: &[Vector<F, N>],
    v: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    p_after: &mut [Vector<F, N>],
    m_after: &mut [Vector<F, N>],
    v_after: &mut [Vector<F, N>],
    count: usize,
    width: usize,
    p_pitch: usize,
    m_pitch: usize,
    v_pitch: usize,
    gradient_pitch: usize,
    p_after_pitch: usize,
    m_after_pitch: usize,
    v_after_pitch: usize,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    correction_1: f32,
    correction_2: f32,
    lr: f32,
    decay: f32,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let (row, column) = (place / width, place % width);
    let g = Vector::<f32, N>::cast_from(gradient[row * gradient_pitch + column]);
    let mean = Vector::<f32, N>::cast_from(m[row * m_pitch + column]) * Vector::new(beta_1)
        + g * Vector::new(1.0 - beta_1);
    let square = Vector::<f32, N>::cast_from(v[row * v_pitch + column]) * Vector::new(beta_2)
        + g * g * Vector::new(1.0 - beta_2);
    let root = (square / Vector::new(correction_2)).sqrt() + Vector::new(epsilon);
    let along = mean / Vector::new(correction_1) / root * Vector::new(lr);
    let kept = Vector::<f32, N>::cast_from(p[row * p_pitch + column]) * Vector::new(decay);
    p_after[row * p_after_pitch + column] = Vector::cast_from(kept - along);
    m_after[row * m_after_pitch + column] = Vector::cast_from(mean);
    v_after[row * v_after_pitch + column] = Vector::cast_from(square);
}
