"""The methods in PyTorch, as an experienced user has them: timm's backbones, HF PEFT where it has the method, small modules for
the rest. Frozen parameters do not require a gradient.

A method is named and configured by the same mapping as in the runner's YAML.
"""

import peft
import torch
from peft.tuners.boft import layer
from torch import nn
from torch.nn import functional as F

from benchmark import Bypassed, Fact, Hypercomplex, Ladder, Queries, Reparameterised, Shared, normal
from models import is_convnext, is_resnet, parts, run
from modules import ActivationPrompt, Adapted, After, BesideMlp, BesideSwinMlp, Bottleneck, LinearProbe, PromptTuning, ResidualBranch, ScaleShift


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


class Diagonal:
    """What HF PEFT's extension for CUDA computes: the block-diagonal matrices of [m, n, b, b]."""

    @staticmethod
    def apply(blocks):
        return torch.stack([torch.block_diag(*factor) for factor in blocks])


def boft(options, targets):
    # Without its extension for CUDA, the library would fall back to one factor.
    layer.get_fbd_cuda = lambda: True
    layer.FastBlockDiag = Diagonal
    sizes = dict(boft_block_size=options["block_size"], boft_n_butterfly_factor=options["factors"])
    return peft.BOFTConfig(**sizes, target_modules=targets)


# The methods that HF PEFT has: from the options and the names of the layers to its configuration.
HF_PEFT = {
    "lora": lambda o, targets: peft.LoraConfig(r=o["rank"], lora_alpha=o["rank"], lora_dropout=0.0, target_modules=targets),
    "loha": lambda o, targets: peft.LoHaConfig(r=o["rank"], alpha=o["rank"], target_modules=targets),
    "lokr": lambda o, targets: peft.LoKrConfig(r=o["rank"], alpha=o["rank"], target_modules=targets),
    "oft": lambda o, targets: peft.OFTConfig(oft_block_size=o["block_size"], target_modules=targets),
    "boft": boft,
    "vera": lambda o, targets: peft.VeraConfig(r=o["rank"], target_modules=targets),
    "fourierft": lambda o, targets: peft.FourierFTConfig(n_frequency=o["frequencies"], target_modules=targets),
}

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
    if name in HF_PEFT:
        kinds = nn.Conv2d if residual else nn.Linear
        ends = "" if residual else (".fc1", ".fc2") if is_convnext(model) else "qkv"
        wanted = lambda n: n.endswith(ends)
        targets = [n for n in inside if isinstance(model.get_submodule(n), kinds) and wanted(n)]
        model = peft.get_peft_model(model, HF_PEFT[name](options, targets)).base_model.model
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
    if name == "partial":
        count = options["blocks"]
        for part in [*model.blocks[-count:], model.norm]:
            part.requires_grad_(True)
        return Adapted(model, len(parts(model)) - 1 - count), False
    if name in ("fact", "rep-adapter", "compacter"):
        attach = {"fact": attach_fact, "rep-adapter": attach_rep_adapter, "compacter": attach_compacter}[name]
        attach(model, **options)
        return Adapted(model, 1), False
    if name == "convpass":
        for i, block in enumerate(model.blocks):
            model.blocks[i] = Bypassed(block, options["bottleneck"], model.patch_embed.grid_size[0])
        return Adapted(model, 1), False
    if name == "lst":
        return Ladder(model, options["reduction"]), False
    if name == "vqt":
        model.get_classifier().requires_grad_(False)
        return Queries(model, options["length"]), False
    raise ValueError(f"unknown method {name!r}")


def attach_fact(model, kind, rank):
    shared = Shared(model.embed_dim, rank, core=kind == "tk")
    for block in model.blocks:
        for part, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
            setattr(part, name, Fact(getattr(part, name), shared, rank))


def attach_rep_adapter(model, bottleneck, groups=2):
    for block in model.blocks:
        for part, name in ((block.attn, "qkv"), (block.mlp, "fc1")):
            setattr(part, name, Reparameterised(getattr(part, name), bottleneck, groups))


def attach_compacter(model, bottleneck, factors=4, rank=1):
    width, rule = model.embed_dim, normal(factors, factors, factors, std=0.01)
    for block in model.blocks:
        for name in ("attn", "mlp"):
            layers = Hypercomplex(width, bottleneck, rule, rank), Hypercomplex(bottleneck, width, rule, rank)
            setattr(block, name, After(getattr(block, name), nn.Sequential(layers[0], nn.GELU(), layers[1])))


def prepare(module, statistics: bool):
    """Puts into training mode what trains: adapters with dropout, and BatchNorm if it uses the batch's statistics."""
    module.eval()
    if statistics:
        module.train()
    for part in module.modules():
        if isinstance(part, Bottleneck):
            part.train()
    return module
