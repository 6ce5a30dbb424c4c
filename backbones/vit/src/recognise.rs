//! Recognises a Vision Transformer by the shapes in a checkpoint.

use peft_core::BackboneConfig;
use peft_core::checkpoint::Shapes;

use crate::architecture::GlobalPool;
use crate::config::Vit;

/// The tensors that show the facts of a Vision Transformer.
pub(crate) const SHOWN_BY: &[(&str, &str)] = &[
    ("embed_dim", "patch_embed.proj.weight"),
    ("patch_size", "patch_embed.proj.weight"),
    ("depth", "blocks.{}.norm1.weight"),
    ("mlp_ratio", "blocks.0.mlp.fc1.weight"),
    ("qkv_bias", "blocks.0.attn.qkv.bias"),
    ("class_token", "cls_token"),
    ("reg_tokens", "reg_token"),
    ("no_embed_class", "pos_embed"),
    ("init_values", "blocks.0.ls1.gamma"),
    ("pre_norm", "norm_pre.weight"),
    ("fc_norm", "fc_norm.weight"),
];

/// The sizes that the shapes of any Vision Transformer reveal.
#[derive(Clone, Copy, Debug)]
pub struct Recognised {
    /// Rows and columns of the image in pixels.
    pub img_size: usize,
    /// Rows and columns of a patch in pixels.
    pub patch_size: usize,
    /// Width of the tokens.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads: from a file beside the checkpoint, else as many as have 64 channels.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    pub mlp_ratio: f64,
    /// Whether class token and registers have no position embedding.
    pub no_embed_class: bool,
}

impl Recognised {
    /// The sizes, if the shapes include a patch embedding of images and a block.
    pub fn of(shapes: &Shapes) -> Option<Self> {
        let &[embed_dim, 3, patch_size, _] = &shapes.get("patch_embed.proj.weight")?[..] else {
            return None;
        };
        let &[1, positions, _] = &shapes.get("pos_embed")?[..] else {
            return None;
        };
        let first = |name: &str| Some(*shapes.get(name)?.first()?);
        let depth = shapes.count("blocks.{}.norm1.weight");
        let hidden = first("blocks.0.mlp.fc1.weight")?;
        let registers = shapes.get("reg_token").map_or(0, |shape| shape[1]);
        let prefix = usize::from(shapes.has("cls_token")) + registers;
        let square = |count: usize| count > 0 && count.isqrt().pow(2) == count;
        // Positions belong to a square grid of patches alone, or to one behind the prefix tokens.
        let with_prefix = positions.checked_sub(prefix).filter(|grid| square(*grid));
        let no_embed_class = prefix > 0 && with_prefix.is_none();
        let grid = with_prefix.unwrap_or(positions);
        // Shapes do not reveal the heads: most networks have heads of 64 channels.
        let guess = (1..=embed_dim.div_ceil(64))
            .rev()
            .find(|n| embed_dim % n == 0);
        let fits = |heads: &usize| *heads > 0 && embed_dim.is_multiple_of(*heads);
        let stated = shapes.num_heads.filter(fits);
        Some(Self {
            img_size: grid.isqrt() * patch_size,
            patch_size,
            embed_dim,
            depth,
            num_heads: stated.or(guess)?,
            mlp_ratio: hidden as f64 / embed_dim as f64,
            no_embed_class,
        })
    }
}

/// The configuration of the network with these shapes. CLIP's encoders, which norm their tokens first,
/// are left to their own family.
pub(crate) fn recognise(shapes: &Shapes) -> Option<Box<dyn BackboneConfig>> {
    let found = Recognised::of(shapes)?;
    if shapes.has("norm_pre.weight") {
        return None;
    }
    let has_bias = |part: &str| shapes.has(&format!("blocks.0.attn.{part}.bias"));
    let (class_token, fc_norm) = (shapes.has("cls_token"), shapes.has("fc_norm.weight"));
    // A norm after the pooling or a missing class token shows that patches are averaged. A network that
    // averages otherwise looks like one that takes the class token, which is far more common.
    let averages = fc_norm || !class_token;
    Some(Box::new(Vit {
        img_size: Some(found.img_size),
        patch_size: Some(found.patch_size),
        embed_dim: Some(found.embed_dim),
        depth: Some(found.depth),
        num_heads: Some(found.num_heads),
        mlp_ratio: (found.mlp_ratio != 4.0).then_some(found.mlp_ratio),
        qkv_bias: (!has_bias("qkv") && !has_bias("query")).then_some(false),
        class_token: (!class_token).then_some(false),
        reg_tokens: shapes.get("reg_token").map(|shape| shape[1]),
        no_embed_class: found.no_embed_class.then_some(true),
        // Any value will do, the checkpoint replaces it.
        init_values: shapes.has("blocks.0.ls1.gamma").then_some(1e-5),
        global_pool: averages.then_some(GlobalPool::Avg),
        fc_norm: (averages && !fc_norm).then_some(false),
        ..Vit::default()
    }))
}
