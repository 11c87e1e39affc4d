"""ResNet-18/50 and ResNeXt-101, equal to torchvision's and classy_vision's down to the padding.

Deep Residual Learning (arXiv 1512.03385) in its v1.5 form: the stride of a bottleneck is in its 3x3 convolution.
All padding is explicit and symmetric as in torch; XLA's 'SAME' pads a stride-2 convolution on one side only.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from sscd_jax.models.layers import (
    BatchNorm,
    Conv,
    compute_once,
    halve,
    max_pool_3x3_stride_2,
    runtime_one,
    zero_padding,
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18)."""

    features: int
    stride: int = 1
    groups: int = 1
    group_width: int = 64
    dtype: Any = jnp.float32
    folded: bool = False
    expansion = 1

    @nn.compact
    def __call__(self, x: Array, train: bool, sizes: Array | None = None) -> Array:
        conv, norm = partial(Conv, dtype=self.dtype), partial(BatchNorm, dtype=self.dtype, folded=self.folded)
        y = conv(self.features, 3, self.stride, name="conv1")(zero_padding(x, sizes))
        y = nn.relu(norm(name="bn1")(y, train))
        y = conv(self.features, 3, name="conv2")(zero_padding(y, sizes if self.stride == 1 else halve(sizes)))
        y = norm(scale_init=nn.initializers.zeros, name="bn2")(y, train)
        return nn.relu(y + _shortcut(self, x, self.features, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt), 1x1 convolutions; the output is four times as wide as the stage."""

    features: int
    stride: int = 1
    groups: int = 1
    group_width: int = 64
    dtype: Any = jnp.float32
    folded: bool = False
    expansion = 4

    @nn.compact
    def __call__(self, x: Array, train: bool, sizes: Array | None = None) -> Array:
        conv, norm = partial(Conv, dtype=self.dtype), partial(BatchNorm, dtype=self.dtype, folded=self.folded)
        inner = self.features * self.group_width // 64 * self.groups
        y = nn.relu(norm(name="bn1")(conv(inner, 1, name="conv1")(x), train))
        y = conv(inner, 3, self.stride, groups=self.groups, name="conv2")(zero_padding(y, sizes))
        y = nn.relu(norm(name="bn2")(y, train))
        y = conv(self.features * self.expansion, 1, name="conv3")(y)
        y = norm(scale_init=nn.initializers.zeros, name="bn3")(y, train)
        return nn.relu(y + _shortcut(self, x, self.features * self.expansion, train))


def _shortcut(block: BasicBlock | Bottleneck, x: Array, features: int, train: bool) -> Array:
    """The identity, or a 1x1 convolution where a block changes the shape (called inside a compact method)."""
    if block.stride == 1 and x.shape[-1] == features:
        return x
    x = Conv(features, 1, block.stride, dtype=block.dtype, name="downsample_conv")(x)
    return BatchNorm(dtype=block.dtype, folded=block.folded, name="downsample_bn")(x, train)


class ResNet(nn.Module):
    """Images to feature maps: float [B, H, W, 3] -> [B, H/32, W/32, 8 * width * block.expansion].

    `folded`: without batch normalization, which `models.folding` folds into the convolutions.

    `remat`: in training, the inside of each block is computed again for the gradient instead of kept.

    `sizes`, int32 [B, 2], are the images' heights and widths where they are smaller than H and W: what is beyond them
    is taken for zero before every convolution that looks beyond a pixel, so that it does not reach into the map of an
    image. What is in the map beyond an image's own is of no meaning.
    """

    stage_sizes: Sequence[int]
    block: type[BasicBlock] | type[Bottleneck]
    width: int = 64
    groups: int = 1
    group_width: int = 64
    dtype: Any = jnp.float32
    folded: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False, sizes: Array | None = None) -> Array:
        x = Conv(self.width, 7, 2, dtype=self.dtype, inference=self.folded, name="conv1")(zero_padding(x, sizes))
        one = runtime_one(self.variables["params"]["conv1"]["kernel"])
        x = nn.relu(BatchNorm(dtype=self.dtype, folded=self.folded, name="bn1")(x, train))
        sizes = halve(sizes)
        x = max_pool_3x3_stride_2(zero_padding(x, sizes))  # after a ReLU zero is as good a padding as -inf
        sizes = halve(sizes)
        block = nn.remat(self.block, static_argnums=(2,)) if self.remat and train else self.block
        for stage, blocks in enumerate(self.stage_sizes):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(
                    features=self.width * 2**stage,
                    stride=stride,
                    groups=self.groups,
                    group_width=self.group_width,
                    dtype=self.dtype,
                    folded=self.folded,
                    name=f"layer{stage + 1}_{i}",
                )(x, train, sizes)
                sizes = halve(sizes) if stride == 2 else sizes
                x = compute_once(x, one)
        return x


BACKBONES = {
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
    "resnext101_32x4d": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck, groups=32, group_width=4),
    "resnext101_32x8d": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck, groups=32, group_width=8),
}
