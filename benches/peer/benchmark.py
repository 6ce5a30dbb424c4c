"""The methods of the benchmarks that HF PEFT does not have: small changes of a ViT's blocks, and networks beside them."""

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F

from models import parts, run


def normal(*shape, std):
    return nn.Parameter(torch.randn(shape) * std)


class Fact(nn.Module):
    """FacT at a linear layer, as factors and never as a matrix: U and V are shared by all layers, and so is the core of TK."""

    def __init__(self, layer, shared, rank):
        super().__init__()
        width = shared.u.shape[1]
        rows, columns = layer.out_features // width, layer.in_features // width
        self.layer, self.shared, self.columns = layer, shared, columns
        inner = (rows, columns, rank) if shared.core is not None else (rows, columns, rank, rank)
        self.factor = nn.Parameter(torch.zeros(inner))

    def forward(self, x):
        shared, factor = self.shared, self.factor
        if shared.core is not None:
            factor = torch.einsum("kij,rck->rcij", shared.core, factor)
        h = F.linear(x.unflatten(-1, (self.columns, -1)), shared.u)
        h = torch.einsum("bncj,rcij->bnri", h, factor)
        return self.layer(x) + F.linear(h, shared.v).flatten(-2)


class Shared(nn.Module):
    """What all layers of FacT share."""

    def __init__(self, width, rank, core):
        super().__init__()
        self.u, self.v = normal(rank, width, std=width**-0.5), normal(width, rank, std=rank**-0.5)
        self.core = normal(rank, rank, rank, std=rank**-1) if core else None


class Reparameterised(nn.Module):
    """RepAdapter: two layers before one, of which the second is grouped."""

    def __init__(self, layer, hidden, groups):
        super().__init__()
        width = layer.in_features
        self.layer, self.down = layer, nn.Linear(width, hidden)
        self.up = nn.Parameter(torch.zeros(groups, width // groups, hidden // groups))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        h = self.down(x).unflatten(-1, (len(self.up), -1))
        return self.layer(x + torch.einsum("bngi,goi->bngo", h, self.up).flatten(-2) + self.bias)


class Bypass(nn.Module):
    """Convpass: down, a convolution over the grid, up. The class token is a map of its own."""

    def __init__(self, width, hidden, side):
        super().__init__()
        self.side = side
        self.down, self.conv, self.up = nn.Linear(width, hidden), nn.Conv2d(hidden, hidden, 3, padding=1), nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def convolve(self, h, side):
        return self.conv(h.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)

    def forward(self, x):
        quick = lambda x: x * torch.sigmoid(1.702 * x)
        h = quick(self.down(x))
        return self.up(quick(torch.cat([self.convolve(h[:, :1], 1), self.convolve(h[:, 1:], self.side)], 1)))


class Bypassed(nn.Module):
    """A block of a ViT with a bypass beside each branch, which reads what the branch reads."""

    def __init__(self, block, hidden, side):
        super().__init__()
        width = block.mlp.fc1.in_features
        self.block = block
        self.beside_attention, self.beside_mlp = Bypass(width, hidden, side), Bypass(width, hidden, side)

    def forward(self, x):
        block = self.block
        y = block.norm1(x)
        x = x + block.attn(y) + self.beside_attention(y)
        y = block.norm2(x)
        return x + block.mlp(y) + self.beside_mlp(y)


class Hypercomplex(nn.Module):
    """A linear layer of Compacter: its weight is a sum of Kronecker products whose first factors all layers share."""

    def __init__(self, inputs, outputs, rule, rank):
        super().__init__()
        factors = len(rule)
        self.rule = rule
        self.left, self.right = normal(factors, outputs // factors, rank, std=0.1), normal(factors, rank, inputs // factors, std=0.1)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        weight = torch.einsum("kij,kab->iajb", self.rule, self.left @ self.right).reshape(len(self.bias), -1)
        return F.linear(x, weight, self.bias)


class Ladder(nn.Module):
    """LST: a network of narrow blocks beside the frozen one, fed by its blocks through gates."""

    def __init__(self, model, reduction):
        super().__init__()
        self.model = model
        cuts = parts(model)
        self.first, self.blocks, self.tail = cuts[0], [block for cut in cuts[1:-1] for block in cut], cuts[-1]
        wide = model.embed_dim
        narrow, heads = wide // reduction, model.blocks[0].attn.num_heads
        self.enter, self.leave = nn.Linear(wide, narrow), nn.Linear(narrow, wide)
        self.down = nn.ModuleList(nn.Linear(wide, narrow) for _ in self.blocks)
        self.rungs = nn.ModuleList(Block(narrow, heads, qkv_bias=True) for _ in self.blocks)
        self.gates = nn.Parameter(torch.zeros(len(self.blocks)))

    def forward(self, x):
        with torch.no_grad():
            taps = [run(self.first, x)]
            for block in self.blocks:
                taps.append(block(taps[-1]))
        h = self.enter(taps[0])
        for tap, down, rung, gate in zip(taps[1:], self.down, self.rungs, torch.sigmoid(self.gates / 0.1)):
            h = rung(torch.lerp(h, down(tap), gate))
        return run(self.tail, self.leave(h))


class Queries(nn.Module):
    """VQT: tokens that are queries only; the head reads what the frozen blocks make of them."""

    def __init__(self, model, length):
        super().__init__()
        self.model = model
        width, depth = model.embed_dim, len(model.blocks)
        self.queries = nn.Parameter(torch.empty(depth, length, width).uniform_(-0.1, 0.1))
        self.head = nn.Linear(width * (1 + depth * length), model.num_classes)
        self.first = parts(model)[0]

    def forward(self, x):
        blocks = self.model.blocks
        with torch.no_grad():
            x = run(self.first, x)
        summaries = []
        for block, queries in zip(blocks, self.queries):
            attention = block.attn
            split = lambda x, count: x.unflatten(2, (count, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
            merge = lambda x: attention.proj(x.transpose(1, 2).flatten(2))
            with torch.no_grad():
                q, k, v = split(attention.qkv(block.norm1(x)), 3)
            width = len(queries[0])
            (own,) = split(F.linear(block.norm1(queries)[None], attention.qkv.weight[:width], attention.qkv.bias[:width]), 1)
            y = queries + merge(F.scaled_dot_product_attention(own.expand(len(x), -1, -1, -1), k, v))
            y = y + block.mlp(block.norm2(y))
            summaries.append(y.flatten(1))
            with torch.no_grad():
                x = x + merge(F.scaled_dot_product_attention(q, k, v))
                x = x + block.mlp(block.norm2(x))
        features = self.model.forward_head(self.model.norm(x), pre_logits=True)
        return self.head(torch.cat([F.normalize(part) for part in (features, *summaries)], 1))
