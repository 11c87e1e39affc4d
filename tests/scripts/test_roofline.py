"""scripts/roofline.py: operations by closed form, collectives of programs for 2 and 8 devices, times by hand."""

from dataclasses import replace

import compile_for_tpu
import jax
import jax.numpy as jnp
import pytest
from roofline import bound, grown, link_seconds, loss_operations, main, mfu
from roofline_chips import CHIPS
from roofline_program import (
    VIEWS,
    Collective,
    collectives,
    collectives_of,
    count,
    program,
    rows_of_the_loss,
    traced_forward,
)

from sscd_jax.config import Config, Data, Model
from sscd_jax.models.cpu import conv2d

SMALL = Config(data=Data(image_size=32, batch_size=24), model=Model(backbone="resnet18", width=8, dims=20))

RECIPE = """
from sscd_jax.config import Config, Data, Model

def get_config():
    return Config(
        data=Data(image_size=32, batch_size=24), model=Model(backbone="resnet18", width=8, dims=20)
    )
"""


@pytest.mark.parametrize(
    ("backbone", "gmac"), [pytest.param("resnet50", 4.09, marks=pytest.mark.slow), ("resnet18", 1.81)]
)
def test_forward_operations_are_the_published_ones(backbone, gmac):
    """Of torchvision's networks, whose last layer has 1000 outputs and ours 512: less than half a percent."""
    forward, exact = count(traced_forward(Config(model=Model(backbone=backbone))))
    assert forward.operations / 2e9 == pytest.approx(gmac, rel=0.01)
    assert not exact


@pytest.mark.slow
def test_a_step_is_three_forwards_but_for_the_gradient_of_the_images():
    step = program(SMALL)
    stem = 2 * 16 * 16 * 7 * 7 * 3 * 8
    assert step.step.operations == pytest.approx(3 * step.forward - stem)
    assert step.loss_products == 3


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (3, 1, 4), (3, 2, 4), (7, 2, 1)])
def test_gradients_of_a_convolution(kernel, stride, groups):
    """Each of the two takes the operations of the convolution, grouped and strided too."""
    images = jax.ShapeDtypeStruct((VIEWS, 12, 12, 8), jnp.float32)
    weights = jax.ShapeDtypeStruct((kernel, kernel, 8 // groups, 16), jnp.float32)

    def once(images, weights):
        return conv2d(images, weights, stride, groups)

    def summed(images, weights):
        return jnp.square(once(images, weights)).sum()

    forward, _ = count(jax.make_jaxpr(once)(images, weights).jaxpr)
    both, _ = count(jax.make_jaxpr(jax.grad(summed, (0, 1)))(images, weights).jaxpr)
    side = 12 // stride
    assert forward.operations == 2 * side * side * 16 * kernel * kernel * 8 // groups
    assert both.operations == pytest.approx(3 * forward.operations)


@pytest.mark.slow
def test_what_is_kept_is_inputs_and_outputs_of_convolutions():
    sides = {"stem": 16 * 16 * 8, "pooled": 8 * 8 * 8}
    stages = [(8, 8), (4, 16), (2, 32), (1, 64)]
    numbers = sides["stem"] + sides["pooled"]
    for stage, (side, width) in enumerate(stages):
        size = side * side * width
        shortcut = size if stage else 0  # the output of the convolution that changes the shape
        # Four outputs, and as inputs what follows three of them; the last block's result goes to the pooling.
        numbers += 4 * size + shortcut + 4 * size
    numbers -= 64
    assert program(SMALL).kept == 4 * numbers


def by_purpose(found: list[Collective]) -> dict[tuple[str, str], Collective]:
    return {(c.kind, c.purpose): c for c in found}


@pytest.mark.slow
def test_collectives_of_2_and_8_devices():
    """Gradients and statistics stay; what the loss sends grows with the views of the global batch."""
    per_chip = 6
    found = {devices: by_purpose(collectives(SMALL, devices, per_chip)) for devices in (2, 8)}
    assert set(found[2]) == {
        ("all-reduce", "gradients"),
        ("all-reduce", "batch normalization"),
        ("all-reduce", "metrics"),
        ("all-gather", "loss"),
        ("reduce-scatter", "loss"),
    }
    step = program(SMALL)
    channels = 8 * (1 + 4 + (1 + 4 * 1) * (2 + 4 + 8))
    # Those of batch normalization's own parameters are made of its statistics; some metrics travel with the gradients.
    metrics = found[2]["all-reduce", "gradients"].bytes - (step.parameters - 2 * 4 * channels)
    assert 0 <= metrics < 200
    assert found[2]["all-reduce", "batch normalization"].bytes >= 4 * 4 * channels
    assert found[8] == by_purpose(grown(list(found[2].values()), 4))
    rows = 2 * per_chip
    ids, descriptors = rows * 2 * 4, rows * SMALL.model.dims * 4
    assert found[2]["all-gather", "loss"].bytes == ids + 2 * descriptors
    assert found[2]["reduce-scatter", "loss"].bytes == 2 * descriptors


def test_collectives_as_they_are_printed():
    """Sums of gradients of convolutions in the network's dtype, which CPUs do not have; what is printed twice, once."""
    line = (
        '%sum = (f32[3,3,8,8]{3,2,1,0}, f32[8]{0}) all-reduce(%a, %b), channel_id=1, op_name="/layer1_0/bn1/backbone"'
    )
    statistics, gradients = Collective("all-reduce", "batch normalization", 1, 32), 3 * 3 * 8 * 8
    for bits in (16, 32):
        found = by_purpose(collectives_of(f"{line}\n{line}\n", 12, bits))
        assert found["all-reduce", "gradients"].bytes == gradients * bits // 8
        assert found["all-reduce", "batch normalization"] == statistics
    assert by_purpose(collectives_of(line, 12)) == by_purpose(collectives_of(line, 12, 32))


@pytest.mark.slow
def test_a_chip_has_its_own_rows_of_the_similarities():
    shapes = rows_of_the_loss(SMALL, 2, 6)
    assert (6, 12) in shapes
    assert (12, 12) not in shapes


def test_links():
    chip = replace(CHIPS["v5e"], link=100.0, network=10.0, slice=4)
    assert link_seconds(Collective("all-gather", "loss", 1, 800), 2, chip) == 4.0
    assert link_seconds(Collective("all-reduce", "gradients", 1, 800), 4, chip) == 12.0
    # Two slices: each chip exchanges a quarter of the half that the other slice has.
    assert link_seconds(Collective("all-reduce", "gradients", 1, 800), 8, chip) == 20.0
    assert link_seconds(Collective("all-gather", "loss", 1, 800), 1, chip) == 0.0


def test_the_loss_on_a_chip_stays_where_chips_grow_as_the_square_of_the_batch():
    step = program(SMALL)
    assert loss_operations(step, 8, 64) == loss_operations(step, 32, 32)
    assert loss_operations(step, 32, 64) == 4 * loss_operations(step, 8, 64), "views of a chip times views of all"


@pytest.mark.parametrize("kind", list(CHIPS))
def test_a_bound_of_every_kind(kind):
    chip, step = CHIPS[kind], program(SMALL)
    found = [Collective("all-gather", "loss", 1, 1e6), Collective("all-reduce", "gradients", 1, 1e6)]
    at = {chips: bound(step, grown(found, chips / 8), chips, 64, chip, "bfloat16") for chips in (8, 4096)}
    assert at[8].matrix_network == at[4096].matrix_network
    assert at[4096].matrix_loss == pytest.approx(512 * at[8].matrix_loss)
    assert at[4096].memory - at[4096].memory_of_loss == pytest.approx(at[8].memory - at[8].memory_of_loss)
    assert 0 < at[8].seconds <= at[4096].seconds
    assert 0 < mfu(step, 64, chip, "bfloat16", at[8].seconds) <= 1
    assert chip.source.startswith("https://")


@pytest.mark.slow
def test_what_it_prints(tmp_path, capsys):
    recipe = tmp_path / "small.py"
    recipe.write_text(RECIPE)
    arguments = ["--chips", "8", "--kind", "v6e", "--share", "0.5", "--price", "10", "--core-rate", "100"]
    main([str(recipe), *arguments, "--measured", "1000"])
    printed = capsys.readouterr().out
    assert "8 x TPU v6e, 6 views a chip" in printed
    assert "measured 1000.0 ms: 0.00 of the bound" in printed
    assert "the batch stays 24 images" in printed
    together = printed.split("6 views a chip\nchips")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in together] == [str(2**i) for i in range(3, 13)]
    with pytest.raises(SystemExit):
        main([str(recipe), "--chips", "5"])
    assert "--batch-size 24 does not divide over 5 devices" in capsys.readouterr().err


@pytest.mark.slow
def test_the_compiler_of_tpus(tmp_path, capsys, monkeypatch):
    """Where libtpu is installed: the same collectives as on simulated devices, from the program of a slice."""
    pytest.importorskip("libtpu")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    recipe = tmp_path / "small.py"
    recipe.write_text(RECIPE)
    compile_for_tpu.main([str(recipe), "--topology", "v5e:2x4"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[4:]]
    on_tpus = {(line[0], " ".join(line[1:-2])): float(line[-1]) for line in lines}
    for key, found in by_purpose(collectives(SMALL, 8, 6)).items():
        if key[1] in ("gradients", "loss"):
            assert on_tpus[key] == pytest.approx(found.bytes / 1e6, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--chips 0", "--chips 0: it must be above 0"),
        ("--chips 3", "does not divide over 3 devices"),
        ("--price 5", "give --share too"),
        ("--share 0", "--share 0: it must be above 0"),
        ("--images 100", "the data set has 100 images, fewer than a batch of 4096"),
    ],
)
def test_what_cannot_be_is_refused(options, said, capsys):
    with pytest.raises(SystemExit):
        main(["disc_blur", *options.split()])
    assert said in capsys.readouterr().err
