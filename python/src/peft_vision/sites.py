"""Acts at linear layers, convolutions and norms: applied by hooks, or folded into the weights."""

from functools import partial

import torch
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .formulas import evaluate

CHANNELS_FIRST = (nn.Conv2d, nn.BatchNorm2d, LayerNorm2d)


class ChangedWeight(nn.Module):
    """A function of a layer's weight, as a parametrization."""

    def __init__(self, acts, parameters):
        super().__init__()
        self.acts = acts
        # In a tuple, so that the adapter's parameters stay the model's own.
        self.parameters_of_adapter = (parameters,)

    def forward(self, weight):
        (parameters,) = self.parameters_of_adapter
        matrix = weight.flatten(1)
        for act in self.acts:
            start, end = rows_of(act, len(matrix))
            new = evaluate(act["value"], parameters.__getitem__, matrix[start:end])
            matrix = among_rows(matrix, start, end, new)
        return matrix.reshape(weight.shape)


def rows_of(act, count):
    rows = act.get("rows")
    return (rows["start"], rows["end"]) if rows else (0, count)


def among_rows(matrix, start, end, new):
    if (start, end) == (0, len(matrix)):
        return new
    return torch.cat([matrix[:start], new, matrix[end:]])


def is_on_input(act):
    return act["act"] == "input_low_rank" or act.get("on") == "input"


def along(value, module, x):
    """A value for each channel, ready to be broadcast over `x`."""
    return value.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2)) if isinstance(module, CHANNELS_FIRST) else value.to(x.dtype)


def scale_shift(act, parameters, module, x):
    if "scale" in act:
        x = x * along(evaluate(act["scale"], parameters.__getitem__), module, x)
    if "shift" in act:
        x = x + along(evaluate(act["shift"], parameters.__getitem__).to(x.device), module, x)
    return x


def factors(act, parameters):
    return [evaluate(act[name], parameters.__getitem__) for name in ("a", "b")]


def on_input(acts, parameters, module, args):
    x, *rest = args
    for act in acts:
        if act["act"] == "input_low_rank":
            a, b = factors(act, parameters)
            x = x + act["scale"] * F.linear(F.linear(x, a), b)
        else:
            x = scale_shift(act, parameters, module, x)
    return (x, *rest)


def on_output(acts, parameters, module, args, y):
    for act in acts:
        y = low_rank(act, parameters, module, args[0], y) if act["act"] == "low_rank" else scale_shift(act, parameters, module, y)
    return y


def low_rank(act, parameters, module, x, y):
    """`y + scale * B A x`, with DoRA's magnitude if there is one."""
    a, b = factors(act, parameters)
    axis = 1 if isinstance(module, CHANNELS_FIRST) else y.dim() - 1
    if isinstance(module, nn.Conv2d):
        path = F.conv2d(x, a, None, module.stride, module.padding, module.dilation)
        path = F.conv2d(path, b, None, groups=module.groups)
    else:
        path = F.linear(F.linear(x, a), b)
    delta = path * act["scale"]
    start, end = rows_of(act, y.shape[axis])
    own = y.narrow(axis, start, end - start)
    if "magnitude" in act:
        factor = along(rescaling(act, parameters, module.weight.flatten(1)[start:end], a, b), module, y)
        bare = own if module.bias is None else own - along(module.bias[start:end], module, y)
        delta = bare * (factor - 1) + delta * factor
    own = own + delta
    if end - start == y.shape[axis]:
        return own
    return torch.cat([y.narrow(axis, 0, start), own, y.narrow(axis, end, y.shape[axis] - end)], axis)


def product(a, b):
    return b.flatten(1) @ a.flatten(1)


def rescaling(act, parameters, weight, a, b):
    """DoRA's `m / ||W + scale B A||`, whose norm is a constant for the gradient."""
    norm = (weight + act["scale"] * product(a, b)).norm(dim=1).detach()
    return evaluate(act["magnitude"], parameters.__getitem__) / norm


def attach(module, acts, parameters):
    """Makes a layer act. Returns the handles of its hooks."""
    weights = [act for act in acts if act["act"] == "weight"]
    inputs = [act for act in acts if is_on_input(act)]
    outputs = [act for act in acts if act not in weights and not is_on_input(act)]
    if weights:
        parametrize.register_parametrization(module, "weight", ChangedWeight(weights, parameters))
    handles = []
    if inputs:
        handles.append(module.register_forward_pre_hook(partial(on_input, inputs, parameters)))
    if outputs:
        handles.append(module.register_forward_hook(partial(on_output, outputs, parameters)))
    return handles


@torch.no_grad()
def fold(name, module, acts, parameters):
    """Folds acts into a layer's weight and bias. The hooks of `attach` must be gone.

    Raises ValueError for an act that no weight of the layer can hold.
    """
    if parametrize.is_parametrized(module):
        # `remove_parametrizations` would change the class, which a copy of a module shares with the original.
        values = {leaf: getattr(module, leaf).detach() for leaf in module.parametrizations}
        kind = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        module.__class__ = kind
        for leaf, value in values.items():
            module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    is_conv = isinstance(module, nn.Conv2d)
    is_norm = not (is_conv or isinstance(module, nn.Linear))
    if is_conv and module.groups > 1 and any(act["act"] == "low_rank" for act in acts):
        raise ValueError(f"{name}: a low-rank path beside a grouped convolution has no equivalent weight")
    weight = module.weight.detach()[:, None] if is_norm else module.weight.detach().flatten(1)
    bias = None if module.bias is None else module.bias.detach()
    outputs = [act for act in acts if act["act"] != "weight" and not is_on_input(act)]
    for act in outputs + [act for act in reversed(acts) if is_on_input(act)]:
        if act["act"] == "low_rank":
            a, b = factors(act, parameters)
            start, end = rows_of(act, len(weight))
            own = weight[start:end]
            changed = own + act["scale"] * product(a, b)
            if "magnitude" in act:
                changed = changed * rescaling(act, parameters, own, a, b)[:, None]
            weight = among_rows(weight, start, end, changed)
        elif act["act"] == "input_low_rank":
            a, b = factors(act, parameters)
            weight = weight + act["scale"] * (weight @ b) @ a
        else:
            scale, shift = (evaluate(act[part], parameters.__getitem__) if part in act else None for part in ("scale", "shift"))
            if act["on"] == "output":
                if scale is not None:
                    weight = weight * scale[:, None]
                    bias = None if bias is None else bias * scale
                if shift is not None:
                    bias = shift if bias is None else bias + shift
            else:
                if is_conv:
                    raise ValueError(f"{name}: a scale or a shift before a convolution does not fold, because of its padding")
                if shift is not None:
                    moved = weight @ shift
                    bias = moved if bias is None else bias + moved
                if scale is not None:
                    weight = weight * scale
    module.weight = nn.Parameter(weight.reshape(module.weight.shape), requires_grad=False)
    module.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
