"""Acts at the branches of residual blocks: `h + scale * layers(v)` before LayerScale, drop path and the sum."""

from functools import partial

import torch
from torch.nn import functional as F

from .formulas import evaluate

# The number in the names of the norm and the drop path around a branch of a Transformer block.
PLACES = {"attn": "1", "mlp": "2"}
FUNCTIONS = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


class Branch:
    """The acts at one branch, and what they read in the current forward pass."""

    def __init__(self, acts, parameters):
        self.acts, self.parameters = acts, parameters
        self.residual = self.normed = self.grid = None

    # Hooks are methods and not closures, so that a copy of a model reads what the copy keeps.

    def keep_residual(self, _, args):
        self.residual = args[0]

    def keep_normed(self, _, args, output):
        self.normed = output

    def keep_stream(self, _, args):
        self.residual = self.normed = args[0]

    def keep_grid(self, _, args):
        self.grid = args[0].shape[1:3]

    def on_output(self, _, args, output):
        return self.acted(output, self.residual, self.normed)

    def on_input(self, _, args):
        return (self.acted(args[0], self.residual, self.normed), *args[1:])

    def on_grid(self, channels_first, _, args, output):
        """A block of ConvNeXt: its branch begins with the stream itself, and its MLP may be linear layers on `[b, h, w, c]`."""
        stream = self.residual if channels_first else self.residual.permute(0, 2, 3, 1)
        self.grid = None if channels_first else stream.shape[1:3]
        return self.acted(output, stream, stream)

    def beside_shortcut(self, downsample, _, args, output):
        shortcut = self.residual if downsample is None else downsample(self.residual)
        return self.acted(output, shortcut, shortcut)

    def acted(self, output, residual, normed):
        for act in self.acts:
            value = {"output": output, "residual": residual, "normed": normed}[act["reads"]]
            for layer in act["layers"]:
                value = self.layer(layer, value)
            output = output + act["scale"] * value.reshape(output.shape)
        return output

    def layer(self, layer, x):
        if layer["layer"] == "nonlinearity":
            return FUNCTIONS[layer["function"]](x)
        weight, bias = (evaluate(layer[part], self.parameters.__getitem__) for part in ("weight", "bias"))
        is_map = x.dim() == 4 and self.grid is None
        if layer["layer"] == "dense":
            return F.conv2d(x, weight[:, :, None, None], bias) if is_map else F.linear(x, weight, bias)
        if is_map:
            return F.conv2d(x, weight, bias, padding=1)
        if "tokens" in layer:
            return on_tokens(x, weight, bias, **layer["tokens"])
        rows, columns = self.grid
        return channels_last(x.reshape(len(x), rows, columns, -1), weight, bias)


def channels_last(x, weight, bias):
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)


def on_tokens(x, weight, bias, prefix, grid):
    """The patches are a map; every other token is a map of one pixel, of which only the kernel's centre sees anything."""
    rows, columns = grid
    end = prefix + rows * columns
    patches = channels_last(x[:, prefix:end].reshape(len(x), rows, columns, -1), weight, bias)
    single = F.linear(torch.cat([x[:, :prefix], x[:, end:]], 1), weight[:, :, 1, 1], bias)
    return torch.cat([single[:, :prefix], patches.flatten(1, 2), single[:, prefix:]], 1)


def attach(backbone, name, acts, parameters):
    """Makes a branch act. Returns the handles of its hooks."""
    branch = Branch(acts, parameters)
    block_name, _, leaf = name.rpartition(".")
    if leaf not in PLACES:
        block = backbone.get_submodule(name)
        return depthwise(block, branch) if hasattr(block, "conv_dw") else convolutions(block, branch)
    block, place = backbone.get_submodule(block_name), PLACES[leaf]
    if hasattr(block.attn, "logit_scale"):
        return normed_behind(block, leaf, branch)
    norm = block.get_submodule(f"norm{place}")
    handles = [norm.register_forward_pre_hook(branch.keep_residual), norm.register_forward_hook(branch.keep_normed)]
    if not hasattr(block, "window_size"):
        return [*handles, block.get_submodule(leaf).register_forward_hook(branch.on_output)]
    # Attention in windows returns one window after the other; what enters the drop path is the image again.
    after = block.get_submodule(f"drop_path{place}")
    return [*handles, block.register_forward_pre_hook(branch.keep_grid), after.register_forward_pre_hook(branch.on_input)]


def normed_behind(block, leaf, branch):
    """A block of Swin V2, whose branches read the stream and are normed behind their last layer."""
    reads = block if leaf == "attn" else block.mlp
    after = block.get_submodule(f"drop_path{PLACES[leaf]}")
    return [
        block.register_forward_pre_hook(branch.keep_grid),
        reads.register_forward_pre_hook(branch.keep_stream),
        after.register_forward_pre_hook(branch.on_input),
    ]


def convolutions(block, branch):
    """A residual block of convolutions, whose last norm writes the branch's output and whose shortcut is read."""
    last = getattr(block, "bn3", None)
    last = block.bn2 if last is None else last
    hooks = partial(branch.beside_shortcut, block.downsample)
    return [block.register_forward_pre_hook(branch.keep_residual), last.register_forward_hook(hooks)]


def depthwise(block, branch):
    """A block of ConvNeXt, whose MLP writes the branch's output."""
    hooks = partial(branch.on_grid, block.use_conv_mlp)
    return [block.register_forward_pre_hook(branch.keep_residual), block.mlp.register_forward_hook(hooks)]
