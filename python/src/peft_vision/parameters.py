"""The values of an adapter under their own names."""

from torch import nn


class Parameters(nn.Module):
    """Parameters and constants by dotted name, each in the nested module that its name spells."""

    def __init__(self):
        super().__init__()
        self._places = {}

    def add(self, name, value, trained):
        *path, leaf = name.split(".")
        module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        if trained:
            module.register_parameter(leaf, nn.Parameter(value))
        else:
            module.register_buffer(leaf, value)
        self._places[name] = (module, leaf)

    def __getitem__(self, name):
        module, leaf = self._places[name]
        return getattr(module, leaf)

    def __contains__(self, name):
        return name in self._places
