"""The official network in PyTorch, torchvision's ResNet with GeM and L2, with the official names (models/model.py).

It must run in a separate process, as `export` runs it: importing torchvision after TensorFlow crashes (in triton).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
    from torch import nn
    from torchvision.models import resnet
except ImportError as error:
    raise ImportError("the network in PyTorch needs torch and torchvision: pip install 'sscd_jax[torch]'") from error

from sscd_jax.models.resnet import BACKBONES, BasicBlock


class GeM(nn.Module):
    """Generalized mean pooling: [N, C, H, W] -> [N, C]."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


class SSCD(nn.Module):
    """Maps normalized images, float32 [N, 3, H, W], to descriptors [N, dims], of norm 1 if `normalized`."""

    def __init__(self, backbone: nn.Module, normalized: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalized = normalized

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.backbone(x)
        return nn.functional.normalize(x) if self.normalized else x


def build_torch(network: Mapping[str, Any], *, normalized: bool = True) -> SSCD:
    """Builds the network that `models.describe` describes, with width 64 and torchvision's initial values."""
    settings = BACKBONES[network["backbone"]].keywords
    backbone = resnet.ResNet(
        resnet.BasicBlock if settings["block"] is BasicBlock else resnet.Bottleneck,
        list(settings["stage_sizes"]),
        num_classes=network["dims"] or 1,
        groups=settings.get("groups", 1),
        width_per_group=settings.get("group_width", 64),
    )
    backbone.avgpool = GeM(network["pool_param"])
    if not network["dims"]:
        backbone.fc = nn.Identity()
    return SSCD(backbone, normalized)


def run(path: Path, network: Mapping[str, Any], images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Computes descriptors by a file's state dict: of each float32 [N, 3, H, W], normalized, float32 [N, dims]."""
    model = build_torch(network).eval()
    (model if network["dims"] else model.backbone).load_state_dict(torch.load(path, weights_only=True))
    with torch.inference_mode():
        return [model(torch.from_numpy(one)).numpy() for one in images]


if __name__ == "__main__":  # python -m sscd_jax.weights.torch_model STATE_DICT NETWORK_JSON IMAGES.npz OUT.npz
    state_dict, network, images, out = sys.argv[1:]
    with np.load(images) as sizes:
        np.savez(out, *run(Path(state_dict), json.loads(network), [sizes[f"arr_{i}"] for i in range(len(sizes))]))
