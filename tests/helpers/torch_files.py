"""Files as PyTorch's users have them: python tests/helpers/torch_files.py FOLDER.

A process of its own (see torch_model.py).

An official ResNet-18 with the golden run's weights as .torchvision.pt, .torchscript.pt (traced, as the official
train.py does it, and scripted), Lightning's .ckpt, old formats, half precision; a plain torchvision ResNet as .pt and
.safetensors; ONNX graphs of it by PyTorch's own exporter; and the official network's descriptors of some images.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from helpers.networks import seeded_state_dict
from sscd_jax.weights.torch_model import build_torch

NETWORK = {"backbone": "resnet18", "dims": 512, "width": 64, "pool_param": 3.0}


class GlobalGeMPool2d(torch.nn.Module):
    """With the official attribute, which a scripted archive keeps."""

    def __init__(self, pooling_param: float) -> None:
        super().__init__()
        self.pooling_param = pooling_param

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.size()
        return x.reshape(n, c, h * w).clamp(min=1e-6).pow(self.pooling_param).mean(dim=2).pow(1.0 / self.pooling_param)


def main(folder: Path) -> None:
    state = {key: torch.from_numpy(value) for key, value in seeded_state_dict("TV_RESNET18").items()}
    state = {k: v.long() if k.endswith("num_batches_tracked") else v for k, v in state.items()}
    model = build_torch(NETWORK).eval()
    model.load_state_dict(state)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 72, 96)).astype(np.float32))
    np.save(folder / "images.npy", images.numpy())
    with torch.no_grad():
        np.save(folder / "descriptors.npy", model(images).numpy())

    torch.save(state, folder / "official.torchvision.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, folder / "half.pt")
    classy = {k: torch.from_numpy(v) for k, v in seeded_state_dict("CV_RESNET18").items()}
    torch.save(classy, folder / "official.classy.pt")
    hyper_parameters = {"args": argparse.Namespace(backbone="TV_RESNET18", pool_param=2.5), "train_steps": 7}
    lightning = {
        "epoch": 1,
        "pytorch-lightning_version": "1.5.10",
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": hyper_parameters,
    }
    torch.save(lightning, folder / "official.ckpt")
    torch.save(model, folder / "whole_module.pt")
    plain = {key.removeprefix("backbone."): value for key, value in state.items() if "fc" not in key}
    plain |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(plain, folder / "imagenet.pt")
    safetensors.torch.save_file(plain, folder / "imagenet.safetensors")

    torch.jit.save(torch.jit.trace(model, images), folder / "traced.torchscript.pt")
    for name, keep in (("folded", False), ("unfolded", True)):
        torch.onnx.export(
            model,
            (images,),
            folder / f"{name}.onnx",
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["descriptors"],
            dynamic_axes={"images": {0: "batch", 2: "height", 3: "width"}},
            training=torch.onnx.TrainingMode.PRESERVE if keep else torch.onnx.TrainingMode.EVAL,
            do_constant_folding=not keep,
        )
    model.backbone.avgpool = GlobalGeMPool2d(3.0)
    torch.jit.save(torch.jit.script(model), folder / "scripted.torchscript.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
