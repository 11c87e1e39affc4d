"""The commands as a user calls them, on real images."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import seeded
from PIL import Image

from sscd_jax import Descriptors, Provenance
from sscd_jax.cli.main import COMMANDS, main
from sscd_jax.presets import Preset
from sscd_jax.weights.native import write_npz

DEBUG = "debug"  # the recipe


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code != 0
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    main(["train", DEBUG, "--workdir", str(workdir), "--steps", "2", "--optimizer.warmup-steps", "1"])
    return workdir


@pytest.fixture
def network(tmp_path) -> Path:
    """A file of weights, which takes less time to make than a run."""
    path = tmp_path / "network.npz"
    write_npz(path, *seeded("resnet18"), {})
    return path


@pytest.mark.slow
def test_train_embed_evaluate(run, images, tmp_path, capsys):
    """Every image is its own copy: all must be found, by any network."""
    pytest.importorskip("matplotlib")
    for name in ("queries", "references"):
        main(["embed", str(images), "--weights", str(run), "--out", str(tmp_path / name), "--batch-size", "16"])
    truth = tmp_path / "truth.csv"
    truth.write_text("query_id,reference_id\n" + "".join(f"{p.stem},{p.stem}\n" for p in images.iterdir()))
    capsys.readouterr()
    folders = ["--queries", str(tmp_path / "queries"), "--references", str(tmp_path / "references")]
    main(["evaluate", "disc", *folders, "--ground-truth", str(truth), "--out", str(tmp_path / "rows.json")])
    assert "uAP" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["uAP"], row["accuracy_at_1"], row["recall_at_p90"]) == (1.0, 1.0, 1.0)
    low, high = row["intervals"]["uAP"]
    assert (0.9 < low < 1, high) == (True, 1.0), "all of 40 are not all"
    main(["evaluate", "compare", str(tmp_path / "rows.json"), str(tmp_path / "rows.json")])
    assert capsys.readouterr().out.count("within noise") == 3
    assert "truth.csv: Expecting value" in fails(capsys, "evaluate", "compare", str(tmp_path / "rows.json"), str(truth))

    charts = {f"{name}.{end}" for name in ("precision_recall", "scores", "by_edit") for end in ("svg", "png")}
    edits = tmp_path / "edits.csv"
    edits.write_text("query_id,edits\n" + "".join(f"{p.stem},crop\n" for p in images.iterdir()))
    rows = ["--out", str(tmp_path / "rows.json"), "--precision", "0.5", "0.9"]
    main(["evaluate", "disc", *folders, "--ground-truth", str(truth), "--edits", str(edits), *rows])
    assert "By edit" in capsys.readouterr().out
    made = {path.name for path in (tmp_path / "rows").iterdir()}
    assert made == {*charts, "by_edit.csv", "manifest.json", "predictions.npz", "thresholds.csv"}
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert [at["precision"] for at in row["at_precision"]] == [0.5, 0.9]
    assert "--precision 2.0: it must" in fails(
        capsys, "evaluate", "disc", *folders, "--ground-truth", str(truth), "--precision", "2"
    )

    main(["report", str(tmp_path / "rows.json")])  # images are where they were
    assert str(tmp_path / "rows.html") in capsys.readouterr().out
    page = (tmp_path / "rows.html").read_text()
    assert page.count("data:image/jpeg") > 10
    absent = str(tmp_path / "absent")
    assert "no such folder" in fails(capsys, "report", str(tmp_path / "rows.json"), "--queries", absent)
    # Its charts are not put among other files, and those of an earlier evaluation do not stay.
    assert "holds sscd_jax descriptors, not sscd_jax evaluation" in fails(
        capsys, "evaluate", "disc", *folders, "--ground-truth", str(truth), "--out", str(tmp_path / "queries.json")
    )
    main(["evaluate", "disc", *folders, "--ground-truth", str(truth), "--out", str(tmp_path / "rows.json")])
    assert not (tmp_path / "rows" / "by_edit.csv").exists()
    assert "must end in .html" in fails(capsys, "report", str(tmp_path / "rows.json"), "--out", str(tmp_path / "r.pdf"))
    truth.write_text(truth.read_text().splitlines()[0] + "\n" + truth.read_text().splitlines()[1] + "\n")
    main(["evaluate", "disc", *folders, "--ground-truth", str(truth), "--out", str(tmp_path / "other.json")])
    both = [str(tmp_path / f"{name}.json") for name in ("rows", "other")]
    assert "different ground truths" in fails(capsys, "report", *both)


def test_another_computation_is_said_in_a_line(tmp_path, capsys):
    vectors = np.eye(9, 16, dtype=np.float32)
    for name, computation, probe in (
        ("a", "float32 by jax on cpu", [[1, 0]]),
        ("b", "bfloat16 by jax on tpu", [[3, 4]]),
    ):
        made_by = Provenance("f" * 64, "small_288", {"probe": probe}, computation)
        Descriptors([f"{name}{n}" for n in range(9)], vectors, made_by).write(tmp_path / name)
    (tmp_path / "truth.csv").write_text("query_id,reference_id\na0,b0\n")
    sets = ["--queries", str(tmp_path / "a"), "--references", str(tmp_path / "b"), "--bootstrap", "0"]
    main(["evaluate", "disc", *sets, "--ground-truth", str(tmp_path / "truth.csv"), "--out", str(tmp_path / "e.json")])
    assert (
        "queries were computed in float32 by jax on cpu, references in bfloat16 by jax on tpu; on 1 test patterns the "
        "descriptors of both have a cosine of at least 0.60000"
    ) in capsys.readouterr().err.splitlines()


@pytest.mark.slow
def test_the_preset_is_that_of_the_network(images, tmp_path, capsys):
    """embed and export take it from the file, and another one is said."""
    write_npz(tmp_path / "w.npz", *seeded("resnet18"), {}, Preset("skew", 64))
    embed = ["embed", str(images), "--weights", str(tmp_path / "w.npz"), "--batch-size", "8", "--out"]
    main([*embed, str(tmp_path / "out")])
    assert Descriptors.read(tmp_path / "out").provenance.preset == "skew_64"
    assert "these weights are for" not in capsys.readouterr().err
    main([*embed, str(tmp_path / "other"), "--preset", "custom", "--custom.size", "48"])
    assert "these weights are for the preset skew_64, and short_48 is used" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*embed, str(tmp_path / "out"), "--preset", "custom", "--custom.size", "48"])
    assert "with preset skew_64 in float32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*embed, str(tmp_path / "new"), "--custom.size", "48"])
    assert "--custom.* requires --preset custom, and the preset is that of the network" in capsys.readouterr().err
    export = ["weights", "export", str(tmp_path / "w.npz"), "--format", "npz", "--images", str(images), "--out"]
    main([*export, str(tmp_path / "bundle")])
    assert json.loads((tmp_path / "bundle" / "model_card.json").read_text())["preset"]["name"] == "skew_64"
    assert "the export is for" not in capsys.readouterr().err
    main([*export, str(tmp_path / "another"), "--preset", "custom", "--custom.size", "48"])
    assert "for the preset skew_64, and the export is for short_48" in capsys.readouterr().err


def test_embed_reports_what_it_cannot_read(network, images, tmp_path, capsys):
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for number, path in enumerate(sorted(images.iterdir())[:5]):
        (folder / "below" / f"{number}.jpg").write_bytes(path.read_bytes())
    (folder / "text.jpg").write_bytes(b"text")
    (folder / "below" / "cut.jpg").write_bytes(path.read_bytes()[:300])
    out = tmp_path / "out"
    main(["embed", str(folder), "--weights", str(network), "--out", str(out), "--batch-size", "8"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["embedded"] == 5
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert (len(errors), summary["total_embedded"]) == (summary["unreadable"], 5)
    assert {error["path"] for error in errors} == {str(folder / "text.jpg"), str(folder / "below" / "cut.jpg")}
    assert all(error["reason"] for error in errors)
    descriptors = Descriptors.read(out)
    assert list(descriptors.ids) == [f"below/{i}" for i in range(5)]
    np.testing.assert_allclose(np.linalg.norm(descriptors.vectors, axis=1), 1, rtol=1e-5)
    assert descriptors.provenance.preset == "small_288"
    assert len(descriptors.provenance.weights) == 64
    assert descriptors.provenance.details["preset"]["size"] == 288

    main(["pack", str(folder), "--out", str(tmp_path / "pack")])
    main(["embed", str(tmp_path / "pack"), "--weights", str(network), "--out", str(tmp_path / "of_pack")])
    packed = Descriptors.read(tmp_path / "of_pack")
    assert (list(packed.ids), len((tmp_path / "of_pack" / "errors.jsonl").read_text().splitlines())) == (
        list(descriptors.ids),
        2,
    )
    np.testing.assert_array_equal(packed.vectors, descriptors.vectors)


@pytest.mark.slow
def test_descriptors_do_not_depend_on_the_batch(network, images, tmp_path):
    for size in (8, 32):
        out = ["--out", str(tmp_path / str(size)), "--batch-size", str(size)]
        main(["embed", str(images), "--weights", str(network), *out])
    small, large = (Descriptors.read(tmp_path / str(size)) for size in (8, 32))
    assert list(small.ids) == list(large.ids)
    np.testing.assert_allclose(small.vectors, large.vectors, atol=1e-5)


def test_train_refuses_what_cannot_work(capsys, tmp_path, images):
    workdir = ["--workdir", str(tmp_path / "run")]
    assert "Perhaps you meant: --data.batch-size" in fails(capsys, "train", DEBUG, *workdir, "--data.batch-sise", "8")
    assert "invalid literal for int" in fails(capsys, "train", DEBUG, *workdir, "--data.batch-size", "many")
    assert "invalid choice" in fails(capsys, "train", DEBUG, *workdir, "--model.backbone", "resnet19").lower()
    assert "take a multiple of 8" in fails(capsys, "train", DEBUG, *workdir, "--data.batch-size", "12")
    assert "fewer than a batch of 64" in fails(
        capsys, "train", DEBUG, *workdir, "--data.batch-size", "64", "--data.source", str(images)
    )
    (tmp_path / "empty").mkdir()
    assert "no images in" in fails(capsys, "train", DEBUG, *workdir, "--data.source", str(tmp_path / "empty"))
    assert "no such folder or file" in fails(
        capsys, "train", DEBUG, *workdir, "--data.source", str(tmp_path / "absent")
    )
    assert "RECIPE" in fails(capsys, "train", *workdir)
    assert "the recipe comes first: sscd-jax train debug" in fails(capsys, "train", *workdir, DEBUG)
    assert "no such recipe; the recipes are debug, demo, disc_adv" in fails(capsys, "train", "disc_blurr", *workdir)
    assert "--data.source DIR" in fails(capsys, "train", DEBUG, *workdir, "--data.source", "")
    assert not (tmp_path / "run").exists(), "nothing was started"


def shown(capsys, *arguments: str) -> str:
    """What a command prints that shows something and ends with status 0."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code
    return capsys.readouterr().out


# Commands whose options are all required.
WITHOUT_DEFAULTS = ("weights convert", "descriptors export", "evaluate compare", "dedup undo")


def test_help_lists_defaults(capsys):
    for command in (["train", DEBUG], *(name.split() for name in COMMANDS)):
        text = shown(capsys, *command, "--help")
        assert " ".join(command) in WITHOUT_DEFAULTS or "default" in text
        assert f"usage: sscd-jax {' '.join(command).removesuffix(f' {DEBUG}')} " in text
        assert len(text.splitlines()[2]) > 20, "it begins with what the command does"
    text = " ".join(shown(capsys, "--help").replace("│", " ").split())
    for name, (_, summary) in COMMANDS.items():
        assert summary in text or " " in name
    assert shown(capsys) == shown(capsys, "--help"), "without a command, help"
    assert "• disc" in shown(capsys, "evaluate", "--help")
    assert "(default: 8)" in shown(capsys, "train", DEBUG, "--help"), "the recipe's batch size"


def test_a_wrong_command_line_lists_the_right_ones(capsys):
    assert "Unrecognized options: fly" in fails(capsys, "fly")
    assert "Available subcommands: demo, train, preview, dedup, search, overlap, pack, embed," in fails(
        capsys, "evlauate"
    )
    assert "Available subcommands: disc, copydays, memorization, compare" in fails(capsys, "evaluate", "disk")
    assert "Expected one of {fetch, convert, export}" in fails(capsys, "weights")
    message = fails(capsys, "demo", "--sed", "1")
    assert "Perhaps you meant: --seed INT" in message
    assert message.count("in sscd-jax") == 1, "only options of the command"


def test_version_and_completion(capsys, tmp_path):
    main(["--version"])
    assert capsys.readouterr().out == f"sscd-jax {version('sscd_jax')}\n"
    shown(capsys, "--tyro-write-completion", "bash", str(tmp_path / "sscd-jax"))
    script = (tmp_path / "sscd-jax").read_text()
    assert all(option in script for option in ("--data.color-ops", "--ground-truth", "--max-side", "copydays"))


@pytest.mark.parametrize("arguments", [["--version"], ["embed", "--help"]])
def test_a_reader_that_ends_early(arguments):
    """As in `sscd-jax embed --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-u", "-c", "from sscd_jax.cli.main import main; main()", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_help_is_shown_without_what_takes_seconds_to_import():
    for arguments in (["--help"], ["train", DEBUG, "--help"], ["embed", "--help"], ["evaluate", "disc", "--help"]):
        code = f"""
import sys
from sscd_jax.cli.main import main
try:
    main({arguments})
finally:
    print({{"jax", "tensorflow", "flax", "faiss", "matplotlib"}} & {{*sys.modules}})
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("set()\n"), arguments


@pytest.mark.parametrize(("hidden", "arguments"), [("matplotlib", ["demo"]), ("jinja2", ["report", "rows.json"])])
def test_an_extra_that_is_not_installed_is_named(hidden, arguments, tmp_path):
    """Here, as the tests of the demo and of the report are skipped where the extra is not installed."""
    if hidden == "matplotlib":
        pytest.importorskip("jinja2")  # which is looked for first
    hide = f"import sys; sys.modules['{hidden}'] = None; from sscd_jax.cli.main import main; main(sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", hide, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    expected = f"sscd-jax {arguments[0]}: {hidden} is not installed: pip install 'sscd_jax[report]'"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, expected)
    assert not list(tmp_path.iterdir())


def test_embed_refuses_what_is_not_a_run(capsys, images, tmp_path):
    message = fails(capsys, "embed", str(images), "--weights", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "is not a training run" in message


def test_a_file_whose_name_is_read_as_an_option(capsys, tmp_path, monkeypatch):
    (tmp_path / "-dash.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["embed", "-dash.jpg", "--weights", "w", "--out", "o"])
    said = capsys.readouterr().err
    assert said.endswith("-dash.jpg was read as an option; for the file of that name, give ./-dash.jpg\n")
    (tmp_path / "--help").write_bytes(b"x")  # does no harm where it is an option
    with pytest.raises(SystemExit, match="0"):
        main(["embed", "--help"])
    assert "was read as an option" not in capsys.readouterr().err


def test_an_error_of_the_system_names_the_file_first(capsys, network, images):
    with pytest.raises(SystemExit):
        main(["embed", str(images), "--weights", str(network), "--out", "/proc/x"])
    assert capsys.readouterr().err.splitlines()[-1] == "sscd-jax embed: /proc/x: No such file or directory"


@pytest.mark.slow
def test_weights_convert_export_and_what_reads_them(run, images, tmp_path, capsys):
    """A run, its conversion and its export are the same weights to every command."""
    main(["weights", "convert", str(run), "--out", str(tmp_path / "a.safetensors")])
    summary = json.loads(capsys.readouterr().out)
    assert (summary["format"], summary["backbone"]) == ("training run", "resnet18")
    options = ["--images", str(images), "--license", "mine"]
    main(
        [
            "weights",
            "export",
            str(tmp_path / "a.safetensors"),
            "--format",
            "npz",
            "--out",
            str(tmp_path / "b"),
            *options,
        ]
    )
    assert json.loads(capsys.readouterr().out)["check"]["images"] == 8
    for name, weights in {"run": run, "file": tmp_path / "a.safetensors", "bundle": tmp_path / "b"}.items():
        out = ["--out", str(tmp_path / "out" / name), "--batch-size", "40"]
        main(["embed", str(images), "--weights", str(weights), *out])
    one, *others = (Descriptors.read(tmp_path / "out" / name) for name in ("run", "file", "bundle"))
    for other in others:
        assert other.provenance == one.provenance
        np.testing.assert_array_equal(other.vectors, one.vectors)
    start = ["--init-from", str(tmp_path / "b"), "--workdir", str(tmp_path / "more"), "--steps", "2"]
    main(["train", DEBUG, *start, "--optimizer.warmup-steps", "1"])


@pytest.mark.slow
def test_weights_fetch(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "choose one of sscd_disc_mixup" in fails(capsys, "weights", "fetch", "sscd_disc_huge")
    assert "exclude one another" in fails(
        capsys, "weights", "fetch", "sscd_disc_mixup", "--file", "a", "--url", "https://host/a"
    )
    write_npz(tmp_path / "copy", *seeded("resnet50", 512, width=64), {})
    main(["weights", "fetch", "sscd_disc_mixup", "--file", str(tmp_path / "copy")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "sscd_jax" / "weights" / "sscd_disc_mixup.safetensors")
    assert "holds a resnet50 with 512 dims" in fails(
        capsys, "weights", "fetch", "sscd_disc_large", "--file", str(tmp_path / "copy")
    )


def test_weights_that_cannot_be_read_end_in_one_line(tmp_path, capsys):
    (tmp_path / "a.pt").write_bytes(b"<html>")
    for arguments in (
        ["weights", "convert", str(tmp_path / "a.pt"), "--out", str(tmp_path / "b.safetensors")],
        ["weights", "export", str(tmp_path / "a.pt"), "--format", "npz", "--out", str(tmp_path / "b")],
        ["embed", "sample", "--weights", str(tmp_path / "a.pt"), "--out", str(tmp_path / "b")],
    ):
        message = fails(capsys, *arguments)
        assert f"{tmp_path / 'a.pt'} is not a known file of weights" in message
        assert "Traceback" not in message


@pytest.fixture
def broken(tmp_path) -> Path:
    """A folder without a readable image."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.jpg").write_bytes(b"text")
    return folder


@pytest.mark.slow
def test_training_without_a_readable_image_ends_in_one_line(capfd, broken, tmp_path):
    message = fails(capfd, "train", DEBUG, "--workdir", str(tmp_path / "run"), "--data.source", str(broken))
    assert f"100 images of {broken} in a row cannot be read: are they images?" in message
    assert "Traceback" not in message


def test_embedding_without_a_readable_image_ends_in_one_line(capfd, network, broken, tmp_path):
    out = ["--out", str(tmp_path / "out"), "--batch-size", "8"]
    message = fails(capfd, "embed", str(broken), "--weights", str(network), *out)
    assert "no image could be read" in message
    assert "Traceback" not in message


@pytest.mark.slow
def test_copydays_from_its_folders(network, images, tmp_path, capsys):
    """Copies of quality 95 of images beside others: all must be found, by any network."""
    root = tmp_path / "copydays"
    paths = sorted(images.iterdir())
    for number, path in enumerate(paths[:10]):
        for block, last in (("original", "00"), ("strong", "01"), ("jpegqual/75", "00"), ("crops/10", "00")):
            (root / block).mkdir(parents=True, exist_ok=True)
            Image.open(path).save(root / block / f"20{number:02d}{last}.jpg", quality=95)
    (tmp_path / "distractors").mkdir()
    for path in paths[10:]:
        shutil.copy(path, tmp_path / "distractors")
    for name in ("copydays", "distractors"):
        main(
            [
                "embed",
                str(tmp_path / name),
                "--weights",
                str(network),
                "--out",
                str(tmp_path / f"D{name}"),
                "--batch-size",
                "16",
            ]
        )
    capsys.readouterr()
    main(
        [
            "evaluate",
            "copydays",
            "--copydays",
            str(tmp_path / "Dcopydays"),
            "--distractors",
            str(tmp_path / "Ddistractors"),
        ]
    )
    said = capsys.readouterr()
    assert "strong_mAP" in said.out
    assert "has 40 images; Copydays has 3212" in said.err
    (row,) = json.loads((tmp_path / "Dcopydays.copydays.json").read_text())
    assert (row["codec"], row["strong_mAP"], row["overall_uAP"]) == ("Flat", 1.0, 1.0)
    assert row["block_mAP"] == dict.fromkeys(["original", "strong", "jpegqual/75", "crops/10"], 1.0)
    bad = ["--copydays", str(tmp_path / "Ddistractors")]
    assert "at least one neighbor" in fails(capsys, "evaluate", "copydays", *bad, "--k", "0")
    assert "is not a block of Copydays" in fails(capsys, "evaluate", "copydays", *bad)


@pytest.mark.slow
def test_evaluate_disc_by_training_descriptors(capsys, tmp_path):
    rng = np.random.default_rng(0)
    full, flat = rng.normal(size=(50, 8)).astype(np.float32), np.zeros((50, 8), np.float32)
    flat[:, :5] = full[:, :5]
    (tmp_path / "truth.csv").write_text("query_id,reference_id\nq,r3\n")
    codecs = {}
    for name, training in {"full": full, "flat": flat}.items():
        sets = {"queries": (["q"], training[3:4]), "references": ([f"r{i}" for i in range(20)], training[:20])}
        sets["training"] = [f"t{i}" for i in range(50)], training
        options = ["--ground-truth", str(tmp_path / "truth.csv"), "--out", str(tmp_path / "rows.json")]
        for key, (ids, vectors) in sets.items():
            Descriptors(ids, vectors, Provenance("w", "p")).write(tmp_path / name / key)
            options += [f"--{key}", str(tmp_path / name / key)]
        main(["evaluate", "disc", *options])
        rows = json.loads((tmp_path / "rows.json").read_text())
        assert {row["score_norm"] for row in rows} == {None, "1.0[0,2]"}
        codecs[name] = {row["codec"] for row in rows}
    assert codecs == {"full": {"Flat", "PCAW8,L2norm,Flat"}, "flat": {"Flat"}}, "whitening needs all dimensions"

    assert "only transforms before Flat" in fails(capsys, "evaluate", "disc", *options, "--codecs", "IVF4,Flat")
    assert "knows no such factory string" in fails(capsys, "evaluate", "disc", *options, "--codecs", "Nope,Flat")
    assert "at least one candidate" in fails(capsys, "evaluate", "disc", *options, "--k", "0")
    assert "is not of the form" in fails(capsys, "evaluate", "disc", *options, "--score-norm", "nonsense")
    main(["evaluate", "disc", *options, "--score-norm", "none"])
    assert {row["score_norm"] for row in json.loads((tmp_path / "rows.json").read_text())} == {None}
    Descriptors(["a", "b"], training[:2], Provenance("w", "p")).write(tmp_path / "two")
    capsys.readouterr()
    main(["evaluate", "disc", *options[:-1], str(tmp_path / "two")])
    assert "no score normalization: it needs 3 training images" in capsys.readouterr().err
    options[-2:] = []  # without --training
    assert "needs --training" in fails(capsys, "evaluate", "disc", *options, "--score-norm", "1.0[0,2]")
    options[options.index("--out") + 1] = str(tmp_path)
    assert "must be a file" in fails(capsys, "evaluate", "disc", *options)


def test_errors_are_harmless_on_a_terminal(tmp_path, capsys):
    """The name of a file neither changes colors nor ends the line."""
    said = fails(capsys, "pack", str(tmp_path / "\x1b[31mred\n\u202e"), "--out", str(tmp_path / "out"))
    assert r"\x1b[31mred\x0a\u202e: no such folder or file" in said
    (tmp_path / "file").write_bytes(b"")
    said = fails(capsys, "pack", "sample", "--out", str(tmp_path / "file" / "\x1b[31m"))
    assert r"file/\x1b[31m" in said
    assert "\x1b" not in said
