"""The eleven methods in PyTorch, as an experienced user writes them: timm's backbones, HF PEFT for LoRA, small modules for the
rest. Whatever needs no gradient runs under `no_grad`, and frozen parameters do not require one.

A method is named and configured by the same mapping as in the runner's YAML.
"""

import timm
import torch
from torch import nn
from torch.nn import functional as F

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


class Adapted(nn.Module):
    """A backbone in two spans, of which the one below `cut` needs no gradient."""

    def __init__(self, model, cut: int = 0):
        super().__init__()
        self.model = model
        self.cut = cut
        cuts = parts(model)
        self.below = [module for part in cuts[:cut] for module in part]
        self.above = [module for part in cuts[cut:] for module in part]

    def prefix(self, x):
        with torch.no_grad():
            return run(self.below, x)

    def act(self, x):
        """What the method does at the cut."""
        return x

    def forward(self, x):
        return run(self.above, self.act(self.prefix(x)))


class LinearProbe(Adapted):
    """The head on frozen features."""

    def __init__(self, model):
        super().__init__(model)
        self.head = model.get_classifier()

    def forward(self, x):
        with torch.no_grad():
            features = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return self.head(features)


class ActivationPrompt(Adapted):
    def __init__(self, model, cut, shape):
        super().__init__(model, cut)
        self.delta = nn.Parameter(torch.zeros(shape))

    def act(self, x):
        return x + self.delta


class PromptTuning(Adapted):
    """Prompt tokens before the first block or, if deep, new ones before each block."""

    def __init__(self, model, mode, length):
        super().__init__(model, 1)
        width, depth = model.embed_dim, len(model.blocks)
        layers = depth if mode == "deep" else 1
        self.prompts = nn.Parameter(torch.empty(layers, length, width).uniform_(-0.1, 0.1))
        self.blocks, self.tail = self.above[:-1], self.above[-1]

    def forward(self, x):
        x = self.prefix(x)
        own, b = x.shape[1], x.shape[0]
        for index, block in enumerate(self.blocks):
            if index < len(self.prompts):
                x = torch.cat([x[:, :own], self.prompts[index].expand(b, -1, -1)], dim=1)
            x = block(x)
        return self.tail(x[:, :own])


class Bottleneck(nn.Module):
    """Down, a nonlinearity, up; on maps with 1x1 convolutions."""

    def __init__(self, width, hidden, activation, scale=1.0, dropout=0.0, maps=False):
        super().__init__()
        layer = (lambda i, o: nn.Conv2d(i, o, 1)) if maps else nn.Linear
        self.down, self.up = layer(width, hidden), layer(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.activation, self.scale, self.dropout = activation, scale, nn.Dropout(dropout)

    def forward(self, x):
        x = self.up(self.dropout(self.activation(self.down(x))))
        return x if self.scale == 1.0 else x * self.scale


class After(nn.Module):
    """A bottleneck after a branch."""

    def __init__(self, branch, bottleneck):
        super().__init__()
        self.branch, self.bottleneck = branch, bottleneck

    def forward(self, x, *rest):
        x = self.branch(x, *rest)
        return x + self.bottleneck(x)


class BesideMlp(nn.Module):
    """A block of a ViT with a bottleneck beside its MLP; the bottleneck reads the stream before the norm."""

    def __init__(self, block, bottleneck):
        super().__init__()
        self.block, self.bottleneck = block, bottleneck

    def forward(self, x):
        block = self.block
        x = x + block.ls1(block.attn(block.norm1(x)))
        return x + block.ls2(block.mlp(block.norm2(x))) + self.bottleneck(x)


class BesideSwinMlp(nn.Module):
    """The same for a block of Swin, on `[b, h, w, c]`."""

    def __init__(self, block, bottleneck):
        super().__init__()
        self.block, self.bottleneck = block, bottleneck

    def forward(self, x):
        block = self.block
        x = x + block._attn(block.norm1(x))
        return x + block.mlp(block.norm2(x)) + self.bottleneck(x)


class ResidualBranch(nn.Module):
    """A residual block of convolutions with a bottleneck after its branch, or beside it on the shortcut."""

    def __init__(self, block, bottleneck, beside):
        super().__init__()
        self.block, self.bottleneck, self.beside = block, bottleneck, beside

    def forward(self, x):
        block = self.block
        shortcut = x if block.downsample is None else block.downsample(x)
        x = block.act1(block.bn1(block.conv1(x)))
        x = block.act2(block.bn2(block.conv2(x)))
        x = block.bn3(block.conv3(x))
        x = x + self.bottleneck(shortcut if self.beside else x)
        return block.act3(x + shortcut)


class ScaleShift(nn.Module):
    """A layer whose output channels are scaled and shifted."""

    def __init__(self, layer, channels, maps):
        super().__init__()
        self.layer = layer
        shape = (channels, 1, 1) if maps else (channels,)
        self.scale = nn.Parameter(torch.empty(shape).normal_(1.0, 0.02))
        self.shift = nn.Parameter(torch.empty(shape).normal_(0.0, 0.02))

    @property
    def weight(self):  # timm reads the patch embedding's type here.
        return self.layer.weight

    def forward(self, x):
        return torch.addcmul(self.shift, self.layer(x), self.scale)


def replace(model, name, module):
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def channels(module) -> int | None:
    match module:
        case nn.Linear():
            return module.out_features
        case nn.Conv2d():
            return module.out_channels
        case nn.LayerNorm():
            return module.normalized_shape[-1]
        case nn.BatchNorm2d():
            return module.num_features


NORMS = (nn.LayerNorm, nn.BatchNorm2d)


def adapt(model, method: dict, image_size: int) -> tuple[nn.Module, bool]:
    """The adapted module, whose trained parameters require gradients, and whether BatchNorm uses the batch's statistics."""
    options = dict(method)
    name = options.pop("name")
    residual, swin = is_resnet(model), hasattr(model, "layers")
    head_name = "fc" if residual else "head.fc" if swin or is_convnext(model) else "head"
    inside = [n for n, _ in model.named_modules() if n and n != head_name and not n.startswith(head_name + ".")]
    if name != "full-finetune":
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)

    if name == "full-finetune":
        return Adapted(model), True
    if name == "linear-probe":
        return LinearProbe(model), False
    if name == "norm-tune":
        for n in inside:
            module = model.get_submodule(n)
            if isinstance(module, NORMS):
                module.requires_grad_(True)
        return Adapted(model), True
    if name == "bias":
        for n, parameter in model.named_parameters():
            if n.endswith("bias"):
                parameter.requires_grad_(True)
        return Adapted(model), False
    if name == "lora":
        import peft

        kinds = nn.Conv2d if residual else nn.Linear
        ends = "" if residual else (".fc1", ".fc2") if is_convnext(model) else "qkv"
        wanted = lambda n: n.endswith(ends)
        targets = [n for n in inside if isinstance(model.get_submodule(n), kinds) and wanted(n)]
        config = peft.LoraConfig(
            r=options["rank"], lora_alpha=options["rank"], lora_dropout=0.0, target_modules=targets
        )
        model = peft.inject_adapter_in_model(config, model)
        model.get_classifier().requires_grad_(True)
        return Adapted(model), False
    if name == "ssf":
        for n in inside:
            module = model.get_submodule(n)
            if (width := channels(module)) is not None:
                maps = isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
                replace(model, n, ScaleShift(module, width, maps))
        return Adapted(model), False
    if name == "vpt":
        return PromptTuning(model, options["mode"], options["length"]), False
    if name == "vp":
        return ActivationPrompt(model, 0, (3, image_size, image_size)), False
    if name == "ap":
        (boundary,) = options["boundaries"]
        cuts = parts(model)
        cut = boundary if boundary >= 0 else len(cuts) - 1 + boundary
        model.eval()
        with torch.no_grad():
            below = [module for part in cuts[:cut] for module in part]
            shape = run(below, torch.zeros(1, 3, image_size, image_size)).shape[1:]
        return ActivationPrompt(model, cut, shape), False
    if name in ("adapter", "adaptformer"):
        beside = name == "adaptformer"
        kind = dict(activation=F.relu, scale=0.1, dropout=0.1) if beside else dict(activation=F.gelu)
        hidden = options["bottleneck"]
        names = {
            "resnet": [n for n in inside if type(model.get_submodule(n)).__name__ == "Bottleneck"],
            "mlp": [n for n in inside if n.endswith(".mlp")],
        }
        for n in names["resnet" if residual else "mlp"]:
            module = model.get_submodule(n)
            width = module.conv3.out_channels if residual else module.fc2.out_features
            bottleneck = Bottleneck(width, hidden, maps=residual, **kind)
            if residual:
                replace(model, n, ResidualBranch(module, bottleneck, beside))
            elif not beside:
                replace(model, n, After(module, bottleneck))
            else:
                owner = n.removesuffix(".mlp")
                block = model.get_submodule(owner)
                replace(model, owner, (BesideSwinMlp if swin else BesideMlp)(block, bottleneck))
        return Adapted(model), False
    raise ValueError(f"unknown method {name!r}")


def prepare(module, statistics: bool):
    """Puts into training mode what trains: adapters with dropout, and BatchNorm if it uses the batch's statistics."""
    module.eval()
    if statistics:
        module.train()
    for part in module.modules():
        if isinstance(part, Bottleneck):
            part.train()
    return module
