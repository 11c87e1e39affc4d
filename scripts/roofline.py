"""Computes how fast a training step can be at best on given chips; nothing is measured, and no chip is needed.

    python scripts/roofline.py disc_blur --chips 32 --kind v5e

Operations, bytes and collectives are read from the step's program (scripts/roofline_program.py). The peak rates of a
chip are those that its vendor publishes (scripts/roofline_chips.py). No step can take less than the longest of three
times:

    matrix  the operations of convolutions and matrix products, divided by the peak rate for the dtype. The products of
            the loss are computed at Precision.HIGHEST, which has a peak rate of its own.
    HBM     the bytes read and written, divided by the memory bandwidth. Every convolution and product reads its
            operands and writes its result once; the optimizer reads parameters, gradients and momentum, and writes two
            of them. All other operations are assumed to be fused into these. The true time can be lower, because a
            result that is used at once may stay on the chip.
    links   the bytes that a chip receives from its own slice or node and from others, divided by the bandwidth of these
            links. Latency is not counted.

MFU (model FLOPs utilization) is the operations of the network, forward and backward, divided by the time and by the
peak rate for the dtype. Memory is the sum of parameters, momentum, gradients, views, inputs and outputs of all
convolutions, and for the loss the similarities, their gradient and the descriptors of all views, without
rematerialization.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence

import jax
from roofline_chips import CHIPS, Chip
from roofline_program import Collective, Program, collectives, program

from sscd_jax import config as configs
from sscd_jax import distributed, recipes, sharding

SIMULATED = 8
GROWTH = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclasses.dataclass(frozen=True)
class Bound:
    """The seconds that a step takes at least, and the bytes of memory that it needs on a chip."""

    matrix_network: float
    matrix_loss: float
    hbm_network: float
    hbm_loss: float
    links: float
    memory: float
    memory_of_loss: float

    @property
    def limits(self) -> dict[str, float]:
        return {
            "matrix": self.matrix_network + self.matrix_loss,
            "HBM": self.hbm_network + self.hbm_loss,
            "links": self.links,
        }

    @property
    def seconds(self) -> float:
        return max(self.limits.values())


def loss_operations(step: Program, chips: int, views: int) -> float:
    """Returns the operations of the loss on a chip, which multiplies its own views with all views."""
    return 2 * step.loss_products * views * (chips * views) * step.dims


def loss_bytes(step: Program, chips: int, views: int) -> float:
    """Returns the bytes that the loss reads and writes on a chip."""
    return 4 * step.loss_products * (views * chips * views + (views + chips * views) * step.dims)


def link_seconds(collective: Collective, chips: int, chip: Chip) -> float:
    """Returns the time of a collective: the longer one of its parts within slices or nodes and between them."""
    inside, groups = min(chips, chip.slice), math.ceil(chips / chip.slice)
    passes = 2 if collective.kind == "all-reduce" else 1
    within = passes * collective.bytes * (inside - 1) / inside / chip.link
    between = passes * collective.bytes / inside * (groups - 1) / groups / chip.network
    return max(within, between)


def grown(found: Sequence[Collective], factor: float) -> list[Collective]:
    """Returns the collectives of a global batch with `factor` times the views."""
    return [dataclasses.replace(c, bytes=c.bytes * factor) if c.purpose == "loss" else c for c in found]


def bound(step: Program, found: Sequence[Collective], chips: int, views: int, chip: Chip, dtype: str) -> Bound:
    """Returns the bound of a step.

    Args:
        step: the program of the step.
        found: the collectives of this global batch.
        chips: the number of chips.
        views: the number of views on each chip.
        chip: the kind of chip.
        dtype: the dtype of the activations.
    """
    network = step.step.bytes_of_views * views + step.step.bytes_of_weights
    optimizer = 5 * step.parameters
    held_by_loss = 4 * (2 * views * chips * views + chips * views * step.dims)
    return Bound(
        matrix_network=step.step.operations * views / chip.peak(dtype),
        matrix_loss=loss_operations(step, chips, views) / chip.highest,
        hbm_network=(network + optimizer) / chip.bandwidth,
        hbm_loss=loss_bytes(step, chips, views) / chip.bandwidth,
        links=sum(link_seconds(c, chips, chip) for c in found),
        memory=3 * step.parameters + (step.pixels + step.kept) * views + held_by_loss,
        memory_of_loss=held_by_loss,
    )


def mfu(step: Program, views: int, chip: Chip, dtype: str, seconds: float) -> float:
    """Returns the model FLOPs utilization, from 0 to 1, of a step that takes `seconds`."""
    return step.step.operations * views / chip.peak(dtype) / seconds


def table(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows of cells, the first column aligned to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def growth(step: Program, found: dict[int, list[Collective]], sizes: dict[int, int], chip: Chip, dtype: str) -> str:
    """Formats a table with a line for each number of chips; `sizes` maps it to the views on a chip."""
    head = ["chips", "images", "matrix ms", "of it loss", "HBM ms", "of it loss", "links ms", "step ms", "limit"]
    rows = [[*head, "views/s", "MFU %", "GiB", "of it loss"]]
    for chips, views in sizes.items():
        at = bound(step, found[chips * views], chips, views, chip, dtype)
        limits = at.limits
        times = [limits["matrix"], at.matrix_loss, limits["HBM"], at.hbm_loss, limits["links"], at.seconds]
        rows.append(
            [
                *(str(chips), str(chips * views // 2)),
                *(f"{1e3 * seconds:.2f}" for seconds in times),
                max(limits, key=limits.__getitem__),
                f"{chips * views / at.seconds:.0f}",
                f"{100 * mfu(step, views, chip, dtype, at.seconds):.1f}",
                *(f"{size / 2**30:.2f}" for size in (at.memory, at.memory_of_loss)),
            ]
        )
    return table(rows)


def print_step(step: Program, found: Sequence[Collective], at: Bound, chips: int, views: int, chip: Chip) -> None:
    rows = [["a step, on a chip", "operations", "HBM bytes"]]
    network = step.step.bytes_of_views * views + step.step.bytes_of_weights
    rows.append(["network", f"{step.step.operations * views:.3e}", f"{network:.3e}"])
    loss = loss_operations(step, chips, views), loss_bytes(step, chips, views)
    rows.append(["loss, at Precision.HIGHEST", *(f"{value:.3e}" for value in loss)])
    rows.append(["optimizer", "", f"{5 * step.parameters:.3e}"])
    print(f"{table(rows)}\n")
    if found:
        rows = [["collectives of a step", "for", "count", "MB", "ms"]]
        for c in found:
            milliseconds = 1e3 * link_seconds(c, chips, chip)
            rows.append([c.kind, c.purpose, str(c.count), f"{c.bytes / 1e6:.3f}", f"{milliseconds:.3f}"])
        print(f"{table(rows)}\n")
    limits = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in at.limits.items())
    print(f"at least {1e3 * at.seconds:.2f} ms a step ({limits})")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="the recipe: a name such as disc_blur, or a path such as mine/recipe.py")
    parser.add_argument("--chips", type=int, default=8, help="number of chips (default %(default)s)")
    parser.add_argument("--kind", choices=list(CHIPS), default="v5e", help="kind of chip (default %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, help="number of images in the global batch (default: as in the recipe)"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="dtype of the activations (default: as in the recipe)"
    )
    parser.add_argument(
        "--images", type=float, default=1e6, help="number of images in the data set (default %(default)g)"
    )
    parser.add_argument(
        "--share", type=float, help="share of the bound that a run reaches, to compute its hours and price"
    )
    parser.add_argument(
        "--price", type=float, nargs="+", default=[], help="dollars an hour for all chips; several prices are compared"
    )
    parser.add_argument("--core-rate", type=float, help="number of images that a CPU core prepares per second")
    parser.add_argument("--brief", action="store_true", help="leave out the tables of 8 to 4096 chips")
    parser.add_argument("--measured", type=float, help="measured milliseconds of a step, to compare with the bound")
    given = parser.parse_args(arguments)
    positive = ("chips", "batch_size", "images", "share", "core_rate", "measured")
    for name in positive:
        if (value := getattr(given, name)) is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} {value:g}: it must be above 0")
    if (given.price or given.core_rate) and not given.share:
        parser.error(
            "--price and --core-rate need the share of the bound that the run reaches: give --share too, such as 0.22"
        )
    try:
        config = recipe(given)
    except ValueError as error:
        parser.error(str(error))
    distributed.start()
    if jax.config.values["jax_num_cpu_devices"] != SIMULATED:
        jax.config.update("jax_num_cpu_devices", SIMULATED)
    report(config, given)


def recipe(given: argparse.Namespace) -> configs.Config:
    """Returns the config with the options of the command line.

    Raises:
        ValueError: there is no such file, or these chips or images do not allow its run.
    """
    config = recipes.load(given.recipe)
    data, model = config.data, config.model
    data = dataclasses.replace(
        data, batch_size=given.batch_size or data.batch_size, source=data.source or "the data set"
    )
    model = dataclasses.replace(model, dtype=given.dtype or model.dtype)
    config = dataclasses.replace(config, data=data, model=model)
    sharding.check_divisible(data.batch_size, "--batch-size", given.chips)
    configs.run_length(config, int(given.images))
    return config


def report(config: configs.Config, given: argparse.Namespace) -> None:
    chip, chips, dtype = CHIPS[given.kind], given.chips, config.model.dtype
    images = config.data.batch_size
    views = 2 * images // chips
    step = program(config)
    simulated = [] if given.brief and chips == 1 else collectives(config, SIMULATED, views)

    def found_for(all_views: int) -> list[Collective]:
        return grown(simulated, all_views / (SIMULATED * views))

    at = bound(step, found_for(2 * images), chips, views, chip, dtype)
    title = f"{given.recipe}: {config.model.backbone}, {config.data.image_size} px, {dtype}"
    print(f"{title}, {images} images a step")
    print(f"{chips} x {chip.name}, {views} views a chip")
    print(
        f"forward {step.forward / 2e9:.3f} GMAC a view, a step {step.step.operations / step.forward:.3f} times that\n"
    )
    print_step(step, found_for(2 * images) if chips > 1 else [], at, chips, views, chip)
    usage = mfu(step, views, chip, dtype, at.seconds)
    rates = f"{2 * images / at.seconds:.0f} views/s, {images / at.seconds:.0f} images/s"
    print(f"at most {rates}, MFU {100 * usage:.1f} %")
    room = "" if at.memory < chip.memory else ": more than it has, so that XLA must save memory"
    print(f"{at.memory / 2**30:.2f} of a chip's {chip.memory / 2**30:.2f} GiB{room}")
    if given.measured:
        share = 1e3 * at.seconds / given.measured
        usage = mfu(step, views, chip, dtype, given.measured / 1e3)
        print(f"measured {given.measured:.1f} ms: {share:.2f} of the bound, MFU {100 * usage:.1f} %")
    if given.share:
        print_run(config, given, at.seconds)
    if not given.brief:
        together = dict.fromkeys(GROWTH, views)
        fixed = {n: 2 * images // n for n in GROWTH if images % n == 0}
        all_found = {n * v: found_for(n * v) for sizes in (together, fixed) for n, v in sizes.items()}
        print(f"\nthe batch grows with the chips, {views} views a chip")
        print(growth(step, all_found, together, chip, dtype))
        print(f"\nthe batch stays {images} images")
        print(growth(step, all_found, fixed, chip, dtype))


def print_run(config: configs.Config, given: argparse.Namespace, seconds: float) -> None:
    steps = config.epochs * int(given.images // config.data.batch_size) if config.steps is None else config.steps
    expected = seconds / given.share
    hours = steps * expected / 3600
    rate = config.data.batch_size / expected
    print(f"{steps} steps: {steps * seconds / 3600:.2f} hours at least")
    prices = " or ".join(f"{hours * price:.0f}" for price in given.price)
    dollars = f", {prices} dollars" if prices else ""
    if given.core_rate:
        cores = math.ceil(rate / given.core_rate)
        dollars += f"; {cores} cores must prepare {given.core_rate:g} images/s each"
    times = f"{1e3 * expected:.0f} ms a step, {rate:.0f} images/s, {hours:.2f} hours"
    print(f"at {given.share} of the bound {times}{dollars}")


if __name__ == "__main__":
    main()
