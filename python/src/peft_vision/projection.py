"""The biases of queries, keys and values that some of timm's attention modules keep beside the layer `qkv`.

Such a module adds them itself and does not call the layer, so that nothing that acts at the layer would ever act.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize

PARTS = ("q_bias", "k_bias", "v_bias")


class Joined(nn.Module):
    """The three biases in one vector, as the parametrization of a bias whose own values are not used."""

    def __init__(self, attention):
        super().__init__()
        # In a tuple, so that the biases stay parameters of the attention alone.
        self.attention = (attention,)

    def forward(self, unused):
        (attention,) = self.attention
        values = attention._parameters | attention._buffers
        return torch.cat([values[name] for name in PARTS])


def join(attention):
    """Makes the attention call its layer, whose bias is then made of the three at every call."""
    if getattr(attention, "q_bias", None) is None or getattr(attention, "qkv", None) is None:
        return
    layer = attention.qkv
    layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)), requires_grad=False)
    parametrize.register_parametrization(layer, "bias", Joined(attention))
    # timm calls the layer if this attribute is None. The parameter is hidden by it and stays what it was.
    attention.__dict__["q_bias"] = None


def is_joined(attention):
    return attention.__dict__.get("q_bias", attention) is None and attention._parameters.get("q_bias") is not None


@torch.no_grad()
def part(name, attention):
    """Writes the bias of a folded layer back into the three from which it was joined.

    Raises ValueError if the biases of keys changed and the attention has none.
    """
    if not is_joined(attention):
        return
    del attention.__dict__["q_bias"]
    layer = attention.qkv
    query, key, value = layer.bias.chunk(3)
    if not torch.equal(key, attention.k_bias):
        raise ValueError(f"{name}: keys have no bias that could hold the shift of what acts on them")
    attention.q_bias.copy_(query)
    attention.v_bias.copy_(value)
    layer.bias = None
