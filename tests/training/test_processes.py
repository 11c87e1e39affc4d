"""Several processes that train end together: if one is told to, if one dies, if one or all fail."""

import re
import shutil
import signal

import pytest
from helpers.processes import TRAIN, Started, ended, lines_in, recipe, start, wait_for_lines
from helpers.runs import STEPS

from sscd_jax.weights.runs import saved_on_disk

pytestmark = pytest.mark.slow  # each starts two processes, which compile; test_distributed.py is quick


def test_a_signal_to_one_saves_and_ends_all_and_the_death_of_one_is_noticed(images, tmp_path):
    config = recipe(tmp_path / "config.py", images, 100_000, more="profile=True")

    def running() -> list[Started]:
        before = lines_in(tmp_path / "run")
        processes = start(config, tmp_path / "run", 2, 1)
        wait_for_lines(tmp_path / "run", before + 2, processes)
        return processes

    processes = running()
    processes[1].send_signal(signal.SIGTERM)
    results = ended(tmp_path / "run", processes)
    assert [status for status, _ in results] == [75, 75], results
    steps = {re.findall(r"saved after step (\d+) of", output)[0] for _, output in results}
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()] == [*steps]
    assert len(list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))) == 1, "of the first"

    # The same command resumes. Ctrl-C in one of them saves and ends all, too.
    processes = running()
    processes[1].send_signal(signal.SIGINT)
    results = ended(tmp_path / "run", processes)
    assert [status for status, _ in results] == [75, 130], results
    assert "train: ended by SIGTERM, saved after step" in results[0][1]
    assert "train: interrupted, saved after step" in results[1][1]
    assert not any("Traceback" in output for _, output in results)
    assert len(saved_on_disk(tmp_path / "run")) == 2

    # Then one is killed, and the other does not wait for it for ever.
    processes = running()
    processes[1].kill()
    (status, output), _ = ended(tmp_path / "run", processes)
    assert status not in (0, 75), output


def test_a_loss_that_is_not_finite_ends_all_and_leaves_the_last_good_checkpoint(images, tmp_path):
    config = recipe(tmp_path / "config.py", images, 12, every=1, rate=1e30)
    results = ended(tmp_path / "run", start(config, tmp_path / "run", 2, 1))
    assert [status for status, _ in results] == [1, 1], results
    (good,) = {
        re.findall(r"train: the loss of step \d+ is .* checkpoint is of step (\d+)", out)[0] for _, out in results
    }
    assert saved_on_disk(tmp_path / "run")[-1] == int(good)
    assert not any("Traceback" in output for _, output in results)


def test_one_that_cannot_start_ends_all_with_its_message(images, tmp_path):
    """Nobody waits for it for ever; the others may be in the middle of what they do together."""
    good = recipe(tmp_path / "good.py", images, 100_000)
    other = recipe(tmp_path / "other.py", tmp_path / "absent", 100_000)
    for number, configs in enumerate(([good, other], [other, good])):
        workdir = tmp_path / f"run{number}"
        results = ended(workdir, start(configs, workdir, 2, 1))
        (status, output), (alive, _) = reversed(results) if number == 0 else results
        assert status == 1, output
        assert re.search(r"sscd-jax train: .*absent", output), output
        assert alive not in (0, 75)


def test_a_machine_whose_name_has_no_address(images, tmp_path):
    config = recipe(tmp_path / "config.py", images, STEPS)
    nameless = "import socket; socket.gethostname = lambda: 'no-such-host.invalid'; " + TRAIN
    results = ended(tmp_path / "run", start(config, tmp_path / "run", 2, 1, nameless))
    assert [status for status, _ in results] == [0, 0], results


def test_other_options_or_images_than_the_others_are_named(images, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(images, fewer)
    next(fewer.iterdir()).unlink()
    configs = [recipe(tmp_path / "one.py", images, 6), recipe(tmp_path / "other.py", fewer, 7)]
    for status, output in ended(tmp_path / "run", start(configs, tmp_path / "run", 2, 1)):
        assert status == 1, output
        assert "train: the processes of this run differ in steps, the images of data.source: start all" in output
