"""A frozen backbone of timm or torchvision with a trained adapter and its head."""

import copy
import json
import pathlib
import shutil

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from . import branches, projection, sites
from .boundaries import Boundaries
from .parameters import Parameters

FORMAT = "peft-vision/1"
FILES = {"config": "config.json", "adapter": "adapter.safetensors", "constants": "constants.safetensors", "card": "README.md"}


def load(backbone, folder):
    """Puts the adapter in a folder onto a backbone of timm or torchvision, which becomes a part of the result.

    The backbone must have the architecture and the weights that the adapter was trained on; its own classifier is not
    used. Only what was trained requires gradients. Raises ValueError if the folder and the backbone do not fit.
    """
    return AdaptedModel(backbone, folder)


class AdaptedModel(nn.Module):
    """Backbone, adapters and head; `images [b, 3, h, w] -> logits [b, classes]` in the order of `classes`.

    A model runs one forward pass at a time: what acts read is kept in between.
    """

    def __init__(self, backbone, folder):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.config = json.loads((self.folder / FILES["config"]).read_text())
        if self.config.get("format") != FORMAT:
            raise ValueError(f"{folder}: expected the format {FORMAT}, got {self.config.get('format')}")
        self.description = self.config["description"]
        self.classes = self.config["classes"]
        # Whether an image may show several classes, or none: probabilities are then `logits.sigmoid()`.
        self.multi_label = self.config.get("multi_label", False)
        self.backbone = backbone
        self.is_timm = hasattr(backbone, "forward_features")
        if not self.is_timm:
            if not hasattr(backbone, "fc"):
                raise ValueError("expected a model of timm, or a ResNet of torchvision")
            backbone.fc = nn.Identity()
        self.check()
        backbone.requires_grad_(False)
        self.adapter = Parameters()
        with safe_open(self.folder / FILES["adapter"], "pt") as file:
            self.metadata = file.metadata()
            self.names = list(file.keys())
            for name in self.names:
                self.put(name, file.get_tensor(name))
        if (self.folder / FILES["constants"]).exists():
            with safe_open(self.folder / FILES["constants"], "pt") as file:
                for name in file.keys():
                    self.adapter.add(name, file.get_tensor(name), trained=False)
        self.attach()

    def check(self):
        """Raises ValueError unless the backbone has the parameters that the adapter was trained on."""
        for known in self.description["fingerprint"]:
            try:
                value = self.of_backbone(known["name"])
            except AttributeError as error:
                raise ValueError(f"the backbone has no {known['name']}: {error}") from None
            if list(value.shape) != known["shape"]:
                raise ValueError(f"{known['name']}: expected the shape {known['shape']}, got {list(value.shape)}")
            rms = value.detach().double().square().mean().sqrt().item()
            if abs(rms - known["rms"]) > 1e-4 * known["rms"]:
                raise ValueError(
                    f"{known['name']}: the adapter was trained on other weights (their root mean square is {known['rms']:.6g}, here {rms:.6g})"
                )

    def attach(self):
        description = self.description
        self.boundaries = Boundaries(description["boundaries"], self.adapter)
        self.is_merged = False
        self.handles = []
        # A site comes before the branch that it ends, and a boundary before whatever keeps what a block reads.
        self.handles += self.boundaries.attach(self.backbone, description["blocks"])
        for site in sorted(description["sites"], key=lambda site: "branch" in site["kind"]):
            acts = [part["does"] for part in site["acts"]]
            if "branch" in site["kind"]:
                self.handles += branches.attach(self.backbone, site["name"], acts, self.adapter)
            else:
                if site["name"].endswith(".qkv"):
                    projection.join(self.module(site["name"].removesuffix(".qkv")))
                self.handles += sites.attach(self.module(site["name"]), acts, self.adapter)

    def module(self, name):
        return self.backbone.get_submodule(self.alias(name))

    def alias(self, name):
        """The backbone's own name: timm keeps CLIP's projection in the place of a classifier, and the biases of
        separate projections in their layers."""
        path, _, leaf = name.rpartition(".")
        if leaf in projection.PARTS and getattr(self.backbone.get_submodule(path), "q_proj", None) is not None:
            return f"{path}.{leaf[0]}_proj.bias"
        if name.split(".")[0] == "projection" and not hasattr(self.backbone, "projection"):
            return name.replace("projection", "head", 1)
        return name

    def of_backbone(self, name):
        """A parameter or buffer of the backbone, without what acts on it."""
        path, _, leaf = self.alias(name).rpartition(".")
        module = self.backbone.get_submodule(path)
        if "parametrizations" in module._modules and leaf in module.parametrizations:
            return module.parametrizations[leaf].original
        # An attribute of the same name may hide a parameter (`projection`).
        own = module._parameters.get(leaf)
        return getattr(module, leaf) if own is None else own

    def put(self, name, value):
        """Puts a trained value in its place."""
        own = name.removeprefix("backbone.")
        if own == name:
            self.adapter.add(name, value, trained=name != "head.mapping")
            return
        place = self.of_backbone(own)
        if place.shape != value.shape:
            raise ValueError(f"{own}: expected the shape {list(place.shape)}, got {list(value.shape)}")
        with torch.no_grad():
            place.copy_(value)
        if isinstance(place, nn.Parameter):
            place.requires_grad_(True)

    def features(self, images):
        """`[b, 3, h, w] -> [b, d]`: what the head reads."""
        self.boundaries.extras = []
        x = self.boundaries.at(0, images)
        if not self.is_timm:
            return self.backbone(x)
        x = self.backbone.forward_head(self.backbone.forward_features(x), pre_logits=True)
        if self.config["backbone"].get("features") == "after":
            x = self.backbone.head(x)
        return x

    def forward(self, images):
        features = self.features(images).float()
        head = self.description["head"]
        weight = self.adapter[head["weight"]]
        if head["kind"] == "text":
            return head["scale"] * F.linear(features / features.norm(dim=1, keepdim=True).clamp_min(1e-12), weight)
        logits = F.linear(features, weight, self.adapter[head["bias"]])
        if head["kind"] == "linear":
            return logits
        return logits[:, self.adapter[head["mapping"]].long()].mean(2)

    @property
    def preprocess(self):
        """The transform of timm that turns a PIL image into what the model reads."""
        from timm.data import create_transform

        given = self.config["input"]
        size = given["size"]
        size = (size, size) if isinstance(size, int) else tuple(size)
        return create_transform(
            input_size=(3, *size),
            interpolation=given["interpolation"],
            mean=given["mean"],
            std=given["std"],
            crop_pct=given["crop_pct"],
            crop_mode=given["crop_mode"],
        )

    def merged(self):
        """A copy whose adapters are folded into the backbone's weights. It computes the same, and has no hooks.

        Raises ValueError for an act that the weights of the backbone cannot hold.
        """
        for place in self.description["boundaries"]:
            names = ", ".join(part["adapter"] for part in place["acts"])
            raise ValueError(f"what {names} does at boundary {place['index']} is not folded; `runner merge` folds prompts that position embeddings hold")
        for site in self.description["sites"]:
            if "branch" in site["kind"]:
                raise ValueError(f"{site['name']}: a branch has no weight that could hold what acts on it")
        other = copy.deepcopy(self)
        for handle in other.handles:
            handle.remove()
        for site in other.description["sites"]:
            sites.fold(site["name"], other.module(site["name"]), [part["does"] for part in site["acts"]], other.adapter)
            if site["name"].endswith(".qkv"):
                projection.part(site["name"], other.module(site["name"].removesuffix(".qkv")))
        other.handles = []
        other.description = {**other.description, "sites": []}
        other.is_merged = True
        return other

    def save(self, folder):
        """Writes the values of now in a folder that `load` and `runner eval --adapter` read."""
        if self.is_merged:
            raise ValueError("a merged model has no adapter to save; torch.save(model.state_dict(), ..) keeps it whole")
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("config", "constants", "card"):
            source = self.folder / FILES[part]
            if source.exists() and source.resolve() != (folder / FILES[part]).resolve():
                shutil.copyfile(source, folder / FILES[part])
        values = {}
        for name in self.names:
            own = name.removeprefix("backbone.")
            value = self.adapter[name] if own == name else self.of_backbone(own)
            values[name] = value.detach().cpu().contiguous()
        save_file(values, folder / FILES["adapter"], metadata=self.metadata)
