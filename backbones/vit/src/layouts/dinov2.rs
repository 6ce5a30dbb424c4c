//! DINOv2's positions as timm keeps them.

use burn::tensor::TensorData;
use peft_core::layout::Others;
use peft_core::params::floats;

/// DINOv2 with registers has a position for the class token but none for the registers, whereas
/// timm has positions for the patches only: the class token's position is added to the token itself.
pub(super) fn from_dinov2(name: &str, data: TensorData, others: Others) -> TensorData {
    if others("reg_token").is_none() {
        return data;
    }
    match (name, &data.shape().to_vec()[..]) {
        ("cls_token", &[1, 1, d]) => {
            let positions = others("pos_embed").map(floats).unwrap_or_default();
            let sum = floats(data).into_iter().zip(positions);
            TensorData::new(sum.map(|(x, y)| x + y).collect::<Vec<_>>(), [1, 1, d])
        }
        ("pos_embed", &[1, n, d]) if n > 1 => {
            TensorData::new(floats(data).split_off(d), [1, n - 1, d])
        }
        _ => data,
    }
}
