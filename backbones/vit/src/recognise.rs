//! Recognises a Vision Transformer by the shapes in a checkpoint.

use peft_core::BackboneConfig;
use peft_core::backbone::ImageSize;
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
    /// Rows and columns of the image in pixels: those that a file beside the checkpoint states, else a
    /// square, else the least oblong rectangle.
    pub img_size: ImageSize,
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
        // Registers and LayerScale came with networks whose prefix tokens have no positions.
        let bare = registers > 0 || shapes.has("blocks.0.ls1.gamma");
        let stated = shapes
            .image_size
            .map(|size| size.map(|side| side / patch_size));
        let grid = Grid::of(positions, prefix, bare, stated)?;
        if let Some(remark) = grid.unsure {
            shapes.unsure(remark);
        }
        // Shapes do not reveal the heads: most networks have heads of 64 channels.
        let guess = (1..=embed_dim.div_ceil(64))
            .rev()
            .find(|n| embed_dim % n == 0);
        let fits = |heads: &usize| *heads > 0 && embed_dim.is_multiple_of(*heads);
        let stated = shapes.num_heads.filter(fits);
        Some(Self {
            img_size: grid.size.map(|side| side * patch_size),
            patch_size,
            embed_dim,
            depth,
            num_heads: stated.or(guess)?,
            mlp_ratio: hidden as f64 / embed_dim as f64,
            no_embed_class: grid.no_embed_class,
        })
    }
}

/// The patches that position embeddings belong to.
pub(crate) struct Grid {
    /// Rows and columns of patches.
    pub size: ImageSize,
    /// Whether only the patches have positions, and not the prefix tokens.
    pub no_embed_class: bool,
    /// What the number of positions leaves open.
    pub unsure: Option<String>,
}

impl Grid {
    /// The grid behind `prefix` tokens to which so many positions belong; `bare`: whether networks like
    /// this one often have no positions for these tokens; `stated`: the grid that a file states.
    pub fn of(
        positions: usize,
        prefix: usize,
        bare: bool,
        stated: Option<ImageSize>,
    ) -> Option<Self> {
        let behind = positions.checked_sub(prefix);
        let known = |size: ImageSize, no_embed_class| Self {
            size,
            no_embed_class,
            unsure: None,
        };
        if let Some(size) = stated.filter(|size| size.pixels() > 0) {
            match size.pixels() {
                count if Some(count) == behind => return Some(known(size, false)),
                count if count == positions => return Some(known(size, true)),
                _ => {}
            }
        }
        let square = |count: usize| {
            let side = count.isqrt();
            (side > 0 && side * side == count).then_some(ImageSize::square(side))
        };
        match (behind.and_then(square), square(positions)) {
            (Some(size), _) => Some(known(size, false)),
            (None, Some(size)) if bare => Some(known(size, true)),
            (None, _) => {
                let count = behind.filter(|count| *count > 0)?;
                // The factors nearest to each other.
                let height = (1..=count.isqrt())
                    .rev()
                    .find(|height| count % height == 0)?;
                Some(Self {
                    size: ImageSize::new(height, count / height),
                    no_embed_class: false,
                    unsure: Some(format!(
                        "img_size is a guess: {count} patches are not a square, and their number does not show \
                         how many rows they have"
                    )),
                })
            }
        }
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
