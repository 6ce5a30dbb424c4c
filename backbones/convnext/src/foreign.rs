//! Networks that are near and not supported.

/// Parts of names that only sparse checkpoints have: those of the pretraining of version 2 as its code saves them,
/// with the layers of MinkowskiEngine.
const SPARSE: [&str; 3] = [".dwconv.kernel", ".pwconv1.linear.", ".pwconv2.linear."];

/// Why a tensor of this name belongs to a network that the family does not have.
pub(crate) fn foreign(tensor: &str) -> Option<&'static str> {
    let sparse = SPARSE.iter().any(|part| tensor.contains(part));
    sparse.then_some(
        "this is a sparse checkpoint of ConvNeXt V2's pretraining (MinkowskiEngine), which is not supported; \
         convert its layers to dense ones, as timm's `fcmae` weights are",
    )
}
