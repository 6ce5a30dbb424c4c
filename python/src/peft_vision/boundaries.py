"""Acts at boundaries: on the image, on what a block reads, on what the last block writes."""

from functools import partial

import torch

from .formulas import evaluate


class Boundaries:
    """The acts at all boundaries, and the extra tokens of the current forward pass."""

    def __init__(self, described, parameters):
        self.acts = {place["index"]: place["acts"] for place in described}
        self.parameters = parameters
        self.extras = []
        self.are_maps = False

    def at(self, index, x):
        for part in self.acts.get(index, []):
            act = part["does"]
            kind = act["act"]
            if kind == "extras":
                x = self.append(x, part["adapter"], act)
            elif kind == "frame":
                x = frame(x, act, self.parameters)
            else:
                value = evaluate(act["value"], self.parameters.__getitem__).to(x.device, x.dtype)
                if self.are_maps and index > 0:
                    value = value.movedim(-1, 0)
                x = self.on_own(x, lambda own: own + value if kind == "add" else own * value)
        return x

    def own(self, x):
        return x.shape[1] - sum(count for _, count in self.extras)

    def on_own(self, x, f):
        if not self.extras:
            return f(x)
        own = self.own(x)
        return torch.cat([f(x[:, :own]), x[:, own:]], 1)

    def append(self, x, adapter, act):
        """Appends tokens behind all others; with `replace` the adapter's earlier ones are removed."""
        start = self.own(x)
        parts, extras = [x[:, :start]], []
        for owner, count in self.extras:
            if not (act["replace"] and owner == adapter):
                parts.append(x[:, start : start + count])
                extras.append((owner, count))
            start += count
        tokens = evaluate(act["tokens"], self.parameters.__getitem__).to(x.dtype)
        self.extras = [*extras, (adapter, len(tokens))]
        return torch.cat([*parts, tokens.expand(len(x), -1, -1)], 1)

    def attach(self, backbone, blocks):
        """Makes the blocks act. Returns the handles of the hooks."""
        handles = []
        # ConvNeXt: the values are `[h, w, c]`, and timm's blocks read maps.
        self.are_maps = hasattr(backbone.get_submodule(blocks[0]), "conv_dw")
        tokens = any(part["does"]["act"] == "extras" for acts in self.acts.values() for part in acts)
        for index, name in enumerate(blocks, 1):
            if index in self.acts or tokens:
                block = backbone.get_submodule(name)
                handles.append(block.register_forward_pre_hook(partial(self.enter, index), with_kwargs=True))
        last = len(blocks) + 1
        if last in self.acts or tokens:
            handles.append(backbone.get_submodule(blocks[-1]).register_forward_hook(partial(self.leave, last)))
        return handles

    def enter(self, index, _, args, kwargs):
        x = self.at(index, args[0])
        if self.extras and kwargs.get("rope") is not None:
            count = sum(count for _, count in self.extras)
            kwargs = {**kwargs, "rope": unrotated(kwargs["rope"], count)}
        return (x, *args[1:]), kwargs

    def leave(self, last, _, args, output):
        # Nothing after the last block reads extra tokens.
        output = self.at(last, output)
        return output[:, : self.own(output)] if self.extras else output


def unrotated(rope, count):
    """The rotary positions of the patches, sines and then cosines, and none for `count` tokens behind them."""
    sines, cosines = rope.chunk(2, -1)
    shape = (*sines.shape[:-2], count, sines.shape[-1])
    sines = torch.cat([sines, sines.new_zeros(shape)], -2)
    cosines = torch.cat([cosines, cosines.new_ones(shape)], -2)
    return torch.cat([sines, cosines], -1)


def frame(image, act, parameters):
    """The image inside a frame of four strips, whose pixels are normalised as the image's are."""

    def strip(formula):
        pixels = evaluate(formula, parameters.__getitem__)
        if act["sigmoid"]:
            pixels = torch.sigmoid(pixels)
        mean, std = (torch.tensor(act[part], device=pixels.device).reshape(3, 1, 1) for part in ("mean", "std"))
        return ((pixels - mean) / std).to(image.dtype).expand(len(image), -1, -1, -1)

    up, down, left, right = map(strip, act["strips"])
    return torch.cat([up, torch.cat([left, image, right], 3), down], 2)
