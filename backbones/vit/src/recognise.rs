//! Recognises a Vision Transformer by the names and shapes in a checkpoint.

use peft_core::BackboneConfig;
use peft_core::backbone::ImageSize;
use peft_core::checkpoint::Shapes;

use crate::architecture::GlobalPool;
use crate::config::Vit;
use crate::foreign::ENORMOUS;
use crate::layouts::Library;
use crate::rope::RopeType;
use crate::variants::VARIANTS;

/// The tensors that show the facts of a Vision Transformer.
pub(crate) const SHOWN_BY: &[(&str, &str)] = &[
    ("embed_dim", "patch_embed.proj.weight"),
    ("patch_size", "patch_embed.proj.weight"),
    ("depth", "blocks.{}.norm1.weight"),
    ("mlp_ratio", "blocks.0.mlp.fc1.weight"),
    ("qkv_bias", "blocks.0.attn.qkv.bias"),
    ("qkv_fused", "blocks.0.attn.q_proj.weight"),
    ("qk_norm", "blocks.0.attn.q_norm.weight"),
    ("scale_attn_inner", "blocks.0.attn.norm.weight"),
    ("swiglu_mlp", "blocks.0.mlp.fc1_g.weight"),
    ("scale_mlp", "blocks.0.mlp.norm.weight"),
    ("class_token", "cls_token"),
    ("reg_tokens", "reg_token"),
    ("use_abs_pos_emb", "pos_embed"),
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
        let depth = shapes.count("blocks.{}.norm1.weight");
        if embed_dim == ENORMOUS && depth == 64 {
            return None; // Its blocks are others (foreign.rs).
        }
        // The last layer reads the hidden values, whatever makes them.
        let hidden = *shapes.get("blocks.0.mlp.fc2.weight")?.get(1)?;
        let registers = shapes.get("reg_token").map_or(0, |shape| shape[1]);
        let prefix = usize::from(shapes.has("cls_token")) + registers;
        let positions = match shapes.get("pos_embed").as_deref() {
            Some(&[1, positions, _]) => Some(positions),
            Some(_) => return None,
            None => None,
        };
        // Registers and LayerScale came with networks whose prefix tokens have no positions.
        let bare = registers > 0 || shapes.has("blocks.0.ls1.gamma");
        let stated = shapes
            .image_size
            .map(|size| size.map(|side| side / patch_size));
        let grid = match positions {
            Some(positions) => Grid::of(positions, prefix, bare, stated)?,
            None => Grid::without_positions(stated),
        };
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
    /// The choices that the number of positions leaves open.
    pub unsure: Option<String>,
}

impl Grid {
    /// The grid of a network without position embeddings, which takes images of any size: the one that is
    /// stated, else that of DINOv3's pretraining.
    fn without_positions(stated: Option<ImageSize>) -> Self {
        let known = stated.filter(|size| size.pixels() > 0);
        let unsure = "img_size is a guess: without position embeddings the network takes images of any size that \
                      is a multiple of patch_size";
        Self {
            size: known.unwrap_or(ImageSize::square(16)),
            no_embed_class: false,
            unsure: known.is_none().then(|| unsure.to_owned()),
        }
    }

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

/// How the parts of the first block are built, as its names show.
struct Parts {
    /// Whether queries, keys and values have a layer each.
    separate: bool,
    query_bias: bool,
    key_bias: bool,
    /// Two first layers of the MLP.
    gated: bool,
    /// One first layer of the MLP that is twice as wide as its second.
    packed: bool,
}

impl Parts {
    fn of(shapes: &Shapes) -> Self {
        let has = |part: &str| shapes.has(&format!("blocks.0.{part}"));
        let all = has("attn.qkv.bias") || has("attn.key.bias") || has("attn.k_proj.bias");
        let rows = |part: &str, axis: usize| {
            let shape = shapes.get(&format!("blocks.0.mlp.{part}.weight"))?;
            shape.get(axis).copied()
        };
        let (first, last) = (rows("fc1", 0), rows("fc2", 1));
        let packed = first
            .zip(last)
            .is_some_and(|(first, last)| first == 2 * last);
        Self {
            separate: has("attn.q_proj.weight"),
            query_bias: all || has("attn.q_bias") || has("attn.q_proj.bias"),
            key_bias: all,
            gated: has("mlp.fc1_g.weight"),
            packed,
        }
    }

    /// The rotary embedding that a network with these parts has: DINOv3's if there are no learned positions,
    /// EVA-02's beside learned ones in a network with gated MLPs whose keys have no bias.
    fn rope(&self, shapes: &Shapes) -> Option<RopeType> {
        let gated = self.gated || self.packed;
        match shapes.has("pos_embed") {
            false => Some(RopeType::Dinov3),
            true if gated && !self.key_bias => Some(RopeType::Cat),
            true => None,
        }
    }
}

/// The grid on which every published EVA-02 was pretrained.
const REFERENCE: [usize; 2] = [16, 16];

/// The configuration of the network with these shapes. CLIP's encoders, which norm their tokens first,
/// are left to their own family.
pub(crate) fn recognise(shapes: &Shapes) -> Option<Box<dyn BackboneConfig>> {
    let found = Recognised::of(shapes)?;
    // The last norm of a pretrained EVA-02 becomes `fc_norm`, which is another layout.
    let pretrained = shapes.layout() == "eva" && shapes.has("lm_head.weight");
    if shapes.has("norm_pre.weight") || pretrained {
        return None;
    }
    let has = |part: &str| shapes.has(&format!("blocks.0.{part}"));
    let parts = Parts::of(shapes);
    let (class_token, fc_norm) = (shapes.has("cls_token"), shapes.has("fc_norm.weight"));
    let rope = parts.rope(shapes);
    let pooled = shapes.has("attn_pool.latent");
    let library = Library::of(shapes.layout());
    // The classifiers of transformers' SigLIP see the average of the normed patches, beside an unused pool.
    let classifies =
        shapes.layout() == "transformers-siglip" && shapes.in_file("classifier.weight");
    // A norm after the pooling or a missing class token shows that patches are averaged. A network that
    // averages otherwise looks like one that takes the class token, which is far more common.
    let averages = fc_norm || !class_token;
    let global_pool = match rope {
        // The files are the same, so the library decides: timm averages.
        Some(RopeType::Dinov3) => Some(library.global_pool.unwrap_or(GlobalPool::Avg)),
        Some(RopeType::Cat) if !averages => Some(GlobalPool::Token),
        _ if pooled && !classifies => Some(GlobalPool::Map),
        _ => averages.then_some(GlobalPool::Avg),
    };
    let default_fc_norm = global_pool == Some(GlobalPool::Avg) && rope != Some(RopeType::Dinov3);
    // MoCo v3's small network has as many heads as its base.
    let moco = shapes.layout() == "moco-v3" && found.embed_dim.is_multiple_of(12);
    let stated = shapes.num_heads.is_some();
    let heads = if moco && !stated { 12 } else { found.num_heads };
    remark(shapes, &found, rope, global_pool, library);
    let swiglu = parts.gated || parts.packed;
    let scale_mlp = has("mlp.norm.weight");
    Some(Box::new(Vit {
        img_size: Some(found.img_size),
        patch_size: Some(found.patch_size),
        embed_dim: Some(found.embed_dim),
        depth: Some(found.depth),
        num_heads: Some(heads),
        mlp_ratio: (found.mlp_ratio != 4.0).then_some(found.mlp_ratio),
        qkv_bias: (!parts.query_bias).then_some(false),
        key_bias: (parts.query_bias && parts.key_bias == rope.is_some()).then_some(parts.key_bias),
        qkv_fused: parts.separate.then_some(false),
        qk_norm: has("attn.q_norm.weight").then_some(true),
        scale_attn_inner: has("attn.norm.weight").then_some(true),
        swiglu_mlp: swiglu.then_some(true),
        // Separate layers for gate and value are as wide as their multiple says.
        swiglu_align_to: (parts.gated && !scale_mlp).then_some(1),
        scale_mlp: scale_mlp.then_some(true),
        class_token: (!class_token).then_some(false),
        reg_tokens: shapes.get("reg_token").map(|shape| shape[1]),
        no_embed_class: found.no_embed_class.then_some(true),
        rope_type: rope,
        ref_feat_shape: (rope == Some(RopeType::Cat)).then_some(REFERENCE),
        // Any value will do, the checkpoint replaces it.
        init_values: (has("ls1.gamma") || has("gamma_1")).then_some(1e-5),
        act_layer: library.act_layer,
        global_pool,
        fc_norm: (default_fc_norm != fc_norm).then_some(fc_norm),
        ..Vit::default()
    }))
}

/// Remarks on what neither names nor shapes decide, and on what would.
fn remark(
    shapes: &Shapes,
    found: &Recognised,
    rope: Option<RopeType>,
    global_pool: Option<GlobalPool>,
    library: Library,
) {
    match rope {
        Some(RopeType::Dinov3) if library.global_pool.is_none() => shapes.unsure(
            "global_pool is timm's default, avg: DINOv3's authors and transformers take the class token, and the \
             files do not show it; `global_pool: token` decides",
        ),
        Some(RopeType::Cat) => shapes.unsure(
            "ref_feat_shape is that of every published EVA-02, 16 x 16 patches: files do not show the grid of the \
             pretraining",
        ),
        _ => {}
    }
    // The activation of a published size is that of its variant.
    let published = VARIANTS.iter().any(|(_, row)| {
        let [embed_dim, depth, _] = row.size;
        row.global_pool == GlobalPool::Map
            && (row.patch_size, embed_dim, depth)
                == (found.patch_size, found.embed_dim, found.depth)
    });
    if global_pool == Some(GlobalPool::Map) && library.act_layer.is_none() && !published {
        shapes.unsure(
            "act_layer is a guess, gelu: some SigLIPs were trained with gelu_tanh, and files do not show it",
        );
    }
}
