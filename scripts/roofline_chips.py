"""The peak rates that vendors publish, for `scripts/roofline.py`; nothing here is measured."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """The published peak rates of one chip."""

    name: str
    bfloat16: float
    """Operations a second in bfloat16, without sparsity."""
    float32: float
    """Operations a second for float32 at JAX's default precision, which is bfloat16 on TPUs and TF32 on GPUs."""
    highest: float
    """Operations a second for float32 at Precision.HIGHEST: six passes in bfloat16 on TPUs, float32 on GPUs."""
    memory: float
    """Bytes of HBM."""
    bandwidth: float
    """Bytes a second between HBM and chip."""
    link: float
    """Bytes a second that a chip receives from the others of its slice (TPU) or node (GPU)."""
    slice: int
    """The largest number of chips that such links join."""
    network: float
    """Bytes a second that each chip receives from other slices or nodes."""
    source: str

    def peak(self, dtype: str) -> float:
        """Returns the operations a second for activations of this dtype."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


def _tpu(
    name: str, bfloat16: float, memory: float, bandwidth: float, link: float, slice: int, network: float, source: str
) -> Chip:
    # jax.lax.Precision, https://docs.jax.dev/en/latest/jax.lax.html: "On TPU: performs float32 computations in
    # bfloat16" by default, "in 6 bfloat16" passes at HIGHEST.
    return Chip(name, bfloat16, bfloat16, bfloat16 / 6, memory, bandwidth, link, slice, network, source)


# Google gives the bandwidth of interconnects as the sum of both directions, of which a chip receives half. The network
# of v5e and v6e is that of a pod divided by its 256 chips. The links of v4 are those of its paper (6 links of 50 GB/s
# in each direction), and one slice has all 4096 chips. NVIDIA gives the rate of the H100's tensor cores with sparsity,
# which is twice the rate without, and that of NVLink as the sum of both directions. GPUs are SXM, in DGX systems of 8
# with a network adapter for each: 200 Gb/s for an A100, 400 Gb/s for an H100.
CHIPS = {
    "v4": _tpu(
        "TPU v4", 275e12, 32 * 2**30, 1200e9, 300e9, 4096, math.inf,
        "https://docs.cloud.google.com/tpu/docs/v4, https://arxiv.org/abs/2304.01433",
    ),
    "v5e": _tpu(
        "TPU v5e", 197e12, 16e9, 819e9, 200e9, 256, 6.4e12 / 8 / 256, "https://docs.cloud.google.com/tpu/docs/v5e"
    ),
    "v5p": _tpu(
        "TPU v5p", 459e12, 95 * 2**30, 2765e9, 600e9, 6144, 50e9 / 8, "https://docs.cloud.google.com/tpu/docs/v5p-training"
    ),
    "v6e": _tpu(
        "TPU v6e", 918e12, 32e9, 1638e9, 400e9, 256, 25.6e12 / 8 / 256, "https://docs.cloud.google.com/tpu/docs/v6e"
    ),
    "a100": Chip(
        "A100 SXM 40 GB", 312e12, 156e12, 19.5e12, 40e9, 1555e9, 300e9, 8, 200e9 / 8,
        "https://www.nvidia.com/en-us/data-center/a100/, https://docs.nvidia.com/dgx/dgxa100-user-guide/",
    ),
    "h100": Chip(
        "H100 SXM 80 GB", 1979e12 / 2, 989e12 / 2, 67e12, 80e9, 3350e9, 450e9, 8, 400e9 / 8,
        "https://www.nvidia.com/en-us/data-center/h100/, https://docs.nvidia.com/dgx/dgxh100-user-guide/",
    ),
}  # fmt: skip
