"""Adapters of the `runner` program on timm and torchvision models in PyTorch."""

from .model import AdaptedModel, load

__all__ = ["AdaptedModel", "load"]
__version__ = "0.2.0"
