"""The rows of the comparison: a backbone, a method as the runner's YAML spells it, a batch, and the largest allowed ratio."""

import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Backbone:
    name: str
    family: str
    variant: str  # timm's name, which the runner knows too.
    batch: int
    limit: float  # Largest allowed ratio of training times, ours over theirs.
    size: int = 224


@dataclass(frozen=True)
class Row:
    backbone: Backbone
    name: str
    method: dict | None  # None means inference of the frozen backbone.
    options: dict = field(default_factory=dict)  # Options of the backbone, on both sides.
    threads: int | None = None

    @property
    def id(self) -> str:
        return f"{self.backbone.name}/{self.name}"

    @property
    def limit(self) -> float:
        """The largest allowed ratio. Steps that are forward passes alone may take a little longer."""
        forward_only = self.method is None or self.name == "linear-probe"
        return max(self.backbone.limit, 1.05) if forward_only else self.backbone.limit

    def ours(self, precision: str) -> list[str]:
        """The arguments of `runner bench`."""
        b = self.backbone
        backbone = {"name": b.family, "variant": b.variant, "weights": None, **self.options}
        if b.family == "resnet":
            backbone["img_size"] = b.size
        optimizer = {"name": "adamw", "lr": 1e-5}
        recipe = {"optimizer": optimizer, "epochs": 1, "batch_size": b.batch, "precision": precision}
        parts = {"backbone": backbone, "method": self.method or {"name": "linear-probe"}, "recipe": recipe}
        what = "inference" if self.method is None else "training"
        return ["--what", what, *(a for key, value in parts.items() for a in ("--set", f"{key}={json.dumps(value)}"))]

    def theirs(self) -> dict:
        b = self.backbone
        return {"timm": b.variant, "options": self.options, "size": b.size, "batch": b.batch, "method": self.method}


VIT_TINY = Backbone("vit-tiny", "vit", "vit_tiny_patch16_224", 16, 1.0)
VIT_BASE = Backbone("vit-base", "vit", "vit_base_patch16_224", 4, 1.0)
RESNET_64 = Backbone("resnet50-64", "resnet", "resnet50", 16, 1.05, size=64)
RESNET_224 = Backbone("resnet50-224", "resnet", "resnet50", 16, 1.05)
SWIN = Backbone("swin-tiny", "swin", "swin_tiny_patch4_window7_224", 16, 1.0)
CLIP = Backbone("clip-b32", "clip", "vit_base_patch32_clip_quickgelu_224", 16, 1.0)
DINOV3 = Backbone("dinov3-small", "vit", "vit_small_patch16_dinov3", 8, 1.0)
SIGLIP = Backbone("siglip-base", "vit", "vit_base_patch16_siglip_224", 4, 1.0)
CONVNEXT = Backbone("convnext-tiny", "convnext", "convnext_tiny", 8, 1.0)
# The other methods of the benchmarks, on ViT-Ti/16.
BENCHMARK = Backbone("benchmark", "vit", "vit_tiny_patch16_224", 16, 1.0)

METHODS = {
    "linear-probe": {"name": "linear-probe"},
    "ap": {"name": "ap", "boundaries": [3]},
    "ap-late": {"name": "ap", "boundaries": [-3]},
    "vp": {"name": "vp", "kind": "full"},
    "vpt-shallow": {"name": "vpt", "mode": "shallow", "length": 10},
    "vpt-deep": {"name": "vpt", "mode": "deep", "length": 10},
    "lora": {"name": "lora", "rank": 10},
    "adapter": {"name": "adapter", "kind": "pfeiffer", "bottleneck": 16},
    "adaptformer": {"name": "adaptformer", "bottleneck": 16},
    "ssf": {"name": "ssf"},
    "norm-tune": {"name": "norm-tune"},
    "bias": {"name": "bias"},
    "full-finetune": {"name": "full-finetune"},
    "inference": None,
    "loha": {"name": "loha", "rank": 8},
    "lokr": {"name": "lokr", "rank": 8},
    "oft": {"name": "oft", "block_size": 32},
    "boft": {"name": "boft", "block_size": 8, "factors": 2},
    "vera": {"name": "vera", "rank": 256},
    "fourierft": {"name": "fourierft", "frequencies": 1000},
    "fact-tt": {"name": "fact", "kind": "tt", "rank": 16},
    "fact-tk": {"name": "fact", "kind": "tk", "rank": 16},
    "rep-adapter": {"name": "rep-adapter", "bottleneck": 8},
    "convpass": {"name": "convpass", "bottleneck": 8},
    "compacter": {"name": "compacter", "bottleneck": 24},
    "partial": {"name": "partial", "blocks": 1},
    "lst": {"name": "lst", "reduction": 8},
    "vqt": {"name": "vqt", "length": 5},
}

OTHERS = list(METHODS)[list(METHODS).index("loha"):]
TRANSFORMER = [name for name in METHODS if name != "ap-late" and name not in OTHERS]
# On maps an activation prompt is late by default, and blocks cannot take extra tokens.
CONVOLUTIONAL = [name for name in METHODS if name not in ("ap", "vpt-shallow", "vpt-deep", *OTHERS)]

OPTIONS = {DINOV3: {"img_size": DINOV3.size}}

TABLE = [
    Row(backbone, name, METHODS[name], OPTIONS.get(backbone, {}))
    for backbone, names in [
        (VIT_TINY, TRANSFORMER),
        (VIT_BASE, ["linear-probe", "ap", "vpt-deep", "lora", "norm-tune", "full-finetune", "inference"]),
        (RESNET_64, CONVOLUTIONAL),
        (RESNET_224, CONVOLUTIONAL),
        (SWIN, ["linear-probe", "ap-late", "lora", "norm-tune", "full-finetune", "inference"]),
        (CLIP, ["linear-probe", "ap", "vpt-deep", "lora", "norm-tune", "full-finetune", "inference"]),
        (DINOV3, ["linear-probe", "ap", "lora", "full-finetune", "inference"]),
        (SIGLIP, ["linear-probe", "ap", "lora", "full-finetune", "inference"]),
        (CONVNEXT, ["linear-probe", "ap-late", "lora", "full-finetune", "inference"]),
        (BENCHMARK, ["lora", "full-finetune", *OTHERS]),
    ]
    for name in names
]
