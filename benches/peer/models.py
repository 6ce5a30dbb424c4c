"""timm's models for the comparison, and where they can be cut."""

import timm
from torch import nn

CLASSES = 10


def backbone(variant: str, **options) -> nn.Module:
    """timm's model with a new head, random weights."""
    return timm.create_model(variant, pretrained=False, num_classes=CLASSES, **options)


class Embed(nn.Module):
    """The part of a ViT from the image to the first block. Keeps the rotary positions, if there are any, for the blocks."""

    def __init__(self, vit):
        super().__init__()
        self.vit = [vit]  # In a list, so that its parameters are not registered a second time.
        self.rope = None

    def forward(self, x):
        (vit,) = self.vit
        x = vit._pos_embed(vit.patch_embed(x))
        if isinstance(x, tuple):
            x, self.rope = x
        return vit.norm_pre(x)


class Rotary(nn.Module):
    """A block with the rotary positions of the image."""

    def __init__(self, block, embed):
        super().__init__()
        self.block, self.embed = [block], [embed]

    def forward(self, x):
        (block,), (embed,) = self.block, self.embed
        return block(x, rope=embed.rope)


class Tail(nn.Module):
    """The part of a model from the last block to the logits."""

    def __init__(self, model):
        super().__init__()
        self.model = [model]

    def forward(self, x):
        (model,) = self.model
        for norm in ("norm_pre", "norm") if is_convnext(model) else ("norm",):
            if hasattr(model, norm):
                x = getattr(model, norm)(x)
        return model.forward_head(x)


def is_convnext(model) -> bool:
    return hasattr(model, "stages")


def is_resnet(model) -> bool:
    return hasattr(model, "layer1")


def parts(model) -> list[list]:
    """The model in order, cut at its boundaries: parts[l] leads to the input of block l + 1, and the last part from the output
    of the last block to the logits."""
    if hasattr(model, "layers") or is_convnext(model):  # Swin and ConvNeXt: a smaller grid is made at the end of the block before it.
        first, stages = (model.stem, model.stages) if is_convnext(model) else (model.patch_embed, model.layers)
        cut = [[first]]
        for stage in stages:
            cut[-1].append(stage.downsample)
            cut.extend([block] for block in stage.blocks)
    elif hasattr(model, "rope"):
        embed = Embed(model)
        cut = [[embed], *([Rotary(block, embed)] for block in model.blocks)]
    elif hasattr(model, "blocks"):
        cut = [[Embed(model)], *([block] for block in model.blocks)]
    else:
        stem = [model.conv1, model.bn1, model.act1, model.maxpool]
        cut = [stem, *([block] for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage)]
    return [*cut, [Tail(model)]]


def run(modules, x):
    for module in modules:
        x = module(x)
    return x
