"""ResNet-18/50 and ResNeXt-101, equal to torchvision's and classy_vision's down to the padding.

Deep Residual Learning (arXiv 1512.03385) in its v1.5 form: the stride of a bottleneck is in its 3x3 convolution.
All padding is explicit and symmetric as in torch, as XLA's 'SAME' pads a stride-2 convolution on one side only.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from sscd_jax.models.cpu import compute_once, max_pool_3x3_stride_2, runtime_one
from sscd_jax.models.layers import BatchNorm, Conv, halve, zero_padding


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
    """A 1x1, a 3x3 (grouped in ResNeXt) and a 1x1 convolution; the output is four times as wide as the stage."""

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
    """Returns x, or its 1x1 convolution if the block changes the shape; for use inside a compact method."""
    if block.stride == 1 and x.shape[-1] == features:
        return x
    x = Conv(features, 1, block.stride, dtype=block.dtype, name="downsample_conv")(x)
    return BatchNorm(dtype=block.dtype, folded=block.folded, name="downsample_bn")(x, train)


class ResNet(nn.Module):
    """Maps images to feature maps: float [B, H, W, 3] -> [B, H/32, W/32, 8 * width * block.expansion].

    With `folded` there is no batch normalization: `models.folding` has folded it into the convolutions. With `remat`
    training recomputes the inside of each block for the gradient instead of keeping it.

    `sizes`, int32 [B, 2], holds the heights and widths of images that are smaller than H and W. What is beyond them is
    set to zero before every convolution larger than 1x1, so that it does not reach into an image's own map. The values
    of the output beyond an image's own map have no meaning.
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
        x = max_pool_3x3_stride_2(zero_padding(x, sizes))  # after a ReLU, padding with 0 equals padding with -inf
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
