"""What the methods put into a model: small modules, as an experienced user writes them. Whatever needs no gradient runs under
`no_grad`."""

import torch
from torch import nn
from torch.nn import functional as F

from models import parts, run


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

    def forward(self, x, *rest, **options):
        x = self.branch(x, *rest, **options)
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
