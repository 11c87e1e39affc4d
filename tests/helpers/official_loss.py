"""The loss of the official network on one batch, in training mode, in PyTorch; a process of its own (torch_model.py).

python tests/helpers/official_loss.py STATE_DICT NETWORK_JSON BATCH.npz: batch with images, normalized float32
[M, 3, H, W], and instance_ids [M]. The loss is written from the official train.py's formulas, its 1e-6 included.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from sscd_jax.weights.torch_model import build_torch


def loss(z: torch.Tensor, ids: torch.Tensor, *, temperature: float, entropy_weight: float) -> torch.Tensor:
    similarity = z @ z.T
    match = ids[:, None] == ids[None]
    negative, positive = ~match, match & ~torch.eye(len(z), dtype=torch.bool)
    logits = (similarity / temperature).exp()
    probabilities = logits / (logits + (negative * logits).sum(1, keepdim=True) + 1e-6)
    info_nce = (-probabilities.log() * positive).sum() / len(z)
    nearest = similarity.masked_fill(match, -100).max(1).values
    koleo = -(2 - 2 * nearest).clamp(min=1e-6).sqrt().log().mean()
    return info_nce + entropy_weight * koleo


def main(state_dict: Path, network: str, batch: Path) -> None:
    model = build_torch(json.loads(network)).train()
    model.load_state_dict(torch.load(state_dict, weights_only=True))
    data = np.load(batch)
    z = model(torch.from_numpy(data["images"]))
    weight, temperature = float(data["entropy_weight"]), float(data["temperature"])
    print(float(loss(z, torch.from_numpy(data["instance_ids"]), temperature=temperature, entropy_weight=weight)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
