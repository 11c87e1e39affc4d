"""The blocks of the pages in docs/ do what they say, without packages that they do not name.

A block of text is what the Python before it prints. Images are resized to 64 pixels instead of 320, to save time.
"""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.extras import needs_onnx
from helpers.networks import needs_torch, seeded
from helpers.pages import DOCS, MODULES, PAGES, RUN, SECTIONS, empty_folder, fetch, python, run_section
from PIL import Image

from sscd_jax.cli.main import main
from sscd_jax.data.images import apply_preset, open_image
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.files import cache_folder
from sscd_jax.models import normalize
from sscd_jax.presets import PRESETS, Preset
from sscd_jax.weights.export_onnx import write_onnx
from sscd_jax.weights.native import write_safetensors

# Files that are named and are not in the repository: an example, the output of a command, files of the official code.
ELSEWHERE = {
    "00017.jpg",
    "crop.jpg",
    "photos/1.jpg",
    "photos/copies/a.jpg",
    "query.jpg",
    "removed/copies/a.jpg",
    "IMG_1.jpg",
    "sheet.jpg",
    "transforms/settings.py",
    "train.py",
    "diff_retrieval.py",
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    return empty_folder(tmp_path, monkeypatch)


def test_every_section_is_tested():
    assert list(SECTIONS) == [
        "Bundles",
        "Images",
        "ONNX Runtime",
        "TensorFlow Serving",
        "PyTorch",
        "JAX",
        "Search with faiss",
        "What is read",
        "Presets",
        "Resume, share, add",
        "Other tools",
        "DISC2021 and Copydays",
        "Images that are in both sets",
        "Confidence intervals",
        "A benchmark of your own images",
        "Calibrate",
        "At DISC2021's size",
        "As TFDS data sets",
        "Measure copying",
        "What the numbers mean",
        "A recipe for each batch size",
        "What fits where",
        "A batch larger than memory",
        "Precision",
        "Input",
        "Stability",
        "Fine-tuning",
        "Interruptions",
        "Compared with PyTorch",
        "Published weights",
        "Formats that can be read",
        "Convert, export, fine-tune",
    ]


@pytest.fixture(scope="module")
def reference() -> str:
    """The page of the commands, with the help of each."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return hooks.commands_page()


def test_the_reference_has_every_command_with_its_help(reference):
    titles = re.findall(r"^## (.+)$", reference, re.MULTILINE)
    assert {"train", "embed", "evaluate disc", "weights fetch"} <= set(titles)
    for title in titles:
        help_ = reference.split(f"\n## {title}\n")[1].split("\n## ")[0]
        assert f"usage: sscd-jax {title} " in help_
        assert "--help" in help_


def test_every_option_that_is_named_exists(reference):
    """Looks at options in prose; pages about scripts and the official code name options of those, too."""
    pages = [(DOCS.parent / "README.md").read_text(), *(PAGES[name] for name in (*RUN, "augmentations"))]
    named = sorted({name for page in pages for name in re.findall(r"`(--[a-z]+(?:[.-][a-z]+)*)", page)})
    assert len(named) > 40
    assert [name for name in named if not re.search(rf"{name}(?![\w.-])", reference)] == []


def test_every_file_that_is_named_exists():
    root = DOCS.parent
    text = "\n".join([(root / "README.md").read_text(), (root / "CONTRIBUTING.md").read_text(), *PAGES.values()])
    prose = re.sub(r"```.*?```|https?://\S+", "", text, flags=re.DOTALL)
    named = set(re.findall(r"(?<![\w/*.])((?:[\w.-]+/)*\w+\.(?:py|jpg|png|sh|sbatch|ipynb))\b", prose))
    folders = [root / name for name in ("sscd_jax", "tests", "scripts", "docs")]
    found = [f"/{path.relative_to(root).as_posix()}" for folder in folders for path in folder.rglob("*")]
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in found)} <= ELSEWHERE


@pytest.mark.parametrize("title", ["ONNX Runtime", "TensorFlow Serving", "PyTorch"])
def test_other_runtimes_need_no_jax(title):
    named = re.findall(r"Needs `pip install (.+)`", SECTIONS[title])[0].split()
    assert set(named) <= MODULES.keys() - {"jax", "sscd_jax"}


@pytest.mark.slow
@needs_onnx
def test_bundles_and_onnxruntime(folder):
    run_section("Bundles")
    bundle = Path("bundles/onnx")
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    table = SECTIONS["Bundles"].split("| File |")[1]
    assert {re.sub(r"\d+\.png", "*.png", file) for file in files} == set(
        re.findall(r"^\| `(.+?)`", table, re.MULTILINE)
    )
    assert len(files) == 12, "eight images"
    assert run_section("ONNX Runtime")

    (verify,) = re.findall(r"^\(cd .*", SECTIONS["Bundles"], re.MULTILINE)
    (bundle / "golden" / "0.png").write_bytes(b"another image")
    done = subprocess.run(["bash", "-c", verify], capture_output=True, text=True)
    assert done.returncode
    assert "golden/0.png: FAILED" in done.stdout


def test_images(folder, images):
    Path("photos").mkdir()
    Image.open(min(images.iterdir())).resize((480, 400)).save("photo.jpg")
    shutil.copy("photo.jpg", "photos")
    code = re.findall(r"```python\n(.*?)```", SECTIONS["Images"], re.DOTALL)[0]
    run_section("Images")
    python(f"{code}\nnp.savez('prepared.npz', pixels=pixels, images=images)", ["numpy", "pillow"])
    prepared = np.load("prepared.npz")
    source = open_source("photos")
    image = np.asarray(apply_preset(open_image(source.load(0)), PRESETS["small_288"]))
    difference = np.abs(prepared["pixels"].astype(int) - image)
    assert difference.max() <= 1, "Pillow's fixed point"
    assert difference.mean() < 0.01
    np.testing.assert_allclose(prepared["images"], normalize(prepared["pixels"]), atol=1e-6)


@pytest.mark.slow
def test_embedding(folder, images):
    """Runs the page's blocks in order, on small images and canvases."""
    pytest.importorskip("pandas")
    shutil.copytree(images, "photos")
    first = re.findall(r"```bash\n(.*?)```", PAGES["embedding"], re.DOTALL)[0]
    main(shlex.split(first)[1:])
    run_section("Resume, share, add")
    one, other = Descriptors.read("descriptors"), Descriptors.read("shared")
    assert (one.ids, len(one.ids)) == (other.ids, 40)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    table = set(re.findall(r"^\| `(.+?)`", SECTIONS["Resume, share, add"], re.MULTILINE))
    there = {path.name + ("/" if path.is_dir() else "") for path in Path("descriptors").iterdir()}
    there = {re.sub(r"-[0-9a-f]{16}\.", "-HASH.", name) for name in there}
    assert there == table - {"errors-00000-HASH.jsonl"}
    assert run_section("Other tools") == "True\n"
    names = set(re.findall(r"^\| `(.+?)`", SECTIONS["Presets"], re.MULTILINE))
    assert names == {"--preset", *PRESETS, "custom"}


@pytest.mark.slow
@needs_onnx
def test_weights(folder, images):
    """Runs the page's sections in order, with narrow networks."""
    shutil.copytree(images, "photos")
    write_onnx(Path("model.onnx"), *seeded("resnet18", 24, width=8), uint8=True, preset=Preset("skew", 320))
    narrow = "--model.backbone resnet18 --model.width 8 --model.dims 24 --data.image-size 32 --data.batch-size 16"
    steps = "--steps 2 --optimizer.warmup-steps 1"
    main(shlex.split(f"train debug --workdir runs/mine {narrow} {steps}"))
    run_section("Published weights")
    assert len(Descriptors.read("descriptors/published").ids) == 40
    (cache_folder("weights") / "sscd_disc_mixup.sha256").unlink()  # of what was fetched, which is replaced here
    write_safetensors(cache_folder("weights") / "sscd_disc_mixup.safetensors", *seeded("resnet18", 24, width=8), {})
    run_section("Convert, export, fine-tune", train=f"{narrow} {steps}")
    assert Path("bundle/sscd.onnx").exists()
    assert Path("model.safetensors").exists()
    assert Path("runs/more/checkpoints/2").is_dir()


@pytest.mark.slow
def test_evaluation(folder, images, capsys):
    """Runs the page's sections in order, on small image sets in the layout of DISC2021 and Copydays."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("mlcroissant")
    paths = sorted(images.iterdir())
    shutil.copytree(images, "photos")
    for name, letter, some in (
        ("val_query", "Q", [*paths[:6], *paths[20:24]]),
        ("val_ref", "R", paths[:20]),
        ("training", "T", paths[24:]),
    ):
        (Path("DISC") / name).mkdir(parents=True)
        for number, path in enumerate(some):
            quality = 50 if letter == "Q" else 90
            Image.open(path).save(Path("DISC") / name / f"{letter}{number:05d}.jpg", quality=quality)
    pairs = "".join(f"Q{i:05d},R{i:05d}\n" for i in range(6))
    (Path("DISC") / "val_groundtruth_matches.csv").write_text(f"query_id,reference_id\n{pairs}")
    for number, path in enumerate(paths[:8]):
        for block, last in (("original", "00"), ("strong", "01"), ("jpegqual/75", "00"), ("crops/80", "00")):
            (Path("COPYDAYS") / block).mkdir(parents=True, exist_ok=True)
            Image.open(path).save(Path("COPYDAYS") / block / f"20{number:02d}{last}.jpg", quality=95)
    write_safetensors(Path("random.safetensors"), *seeded("resnet18", 24, width=8), {})

    run_section("DISC2021 and Copydays")
    assert "best of all" in capsys.readouterr().out
    run_section("Confidence intervals")
    assert capsys.readouterr().out.count("within noise") >= 1
    beside = {path.name for path in Path("DISC/descriptors/val.disc").iterdir()}
    page = SECTIONS["Confidence intervals"].split("| File |")[1]
    named = {
        name
        for line in page.splitlines()
        for name in re.findall(r"`([\w.]+)`", line.split("|")[1] if "|" in line else "")
    }
    assert {f"{name}.{end}" for name in ("precision_recall", "scores") for end in ("svg", "png")} <= beside
    assert {name for name in named if not name.startswith((".", "by_edit"))} <= beside
    run_section("A benchmark of your own images")
    assert "By edit" in capsys.readouterr().out
    assert Path("mine.html").read_text().count("data:image/jpeg") > 10
    printed = run_section("Calibrate")
    assert re.fullmatch(r"\d+ pairs are copies\n", printed)
    assert "At the threshold of the calibration" in capsys.readouterr().out
    run_section("As TFDS data sets")
    ids = Descriptors.read("tfds-copydays").ids
    assert len(ids) == 32
    assert "strong/200001" in ids


@pytest.mark.slow
def test_generative(folder, images, capsys):
    """Runs the page's block on "generated" images of which a third are training images, saved again."""
    paths = sorted(images.iterdir())
    for name, some in (("training", paths[:15]), ("generated", [*paths[:4], *paths[15:23]]), ("held-out", paths[23:])):
        Path(name).mkdir()
        for path in some:
            Image.open(path).save(Path(name) / path.name, quality=80)
    run_section("Measure copying")
    printed = capsys.readouterr()
    assert "published numbers" not in printed.err, "the preset is theirs"
    header, *rows = [re.split("  +", line) for line in printed.out.splitlines() if re.search(r"\w  ", line)]
    text = SECTIONS["What the numbers mean"]
    assert set(header[1:]) <= set(re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE))
    measured = {name for name, *_ in rows if re.match("mean|std|percentile|share", name)}
    named = set(re.findall(r"`(.+?)`", text)) | {f"percentile {p}" for p in (25, 50, 99)}
    assert {name.removesuffix(" (dataset similarity)") for name in measured} <= named
    files = set(re.findall(r"^\| `(.+?)`", SECTIONS["Measure copying"], re.MULTILINE))
    assert files <= {path.name for path in Path("descriptors").iterdir()}
    made = json.loads(Path("descriptors/generated.memorization.json").read_text())
    assert made["generated"]["images"] == 12


@pytest.mark.slow
def test_tensorflow_serving(folder):
    run_section("TensorFlow Serving")
    (command,) = re.findall(r"^tensorflow_model_server .*", SECTIONS["TensorFlow Serving"], re.MULTILINE)
    (versions,) = re.findall(r'--model_base_path="\$PWD/(.+?)"', command)
    assert (folder / versions / "1" / "saved_model.pb").is_file()
    body = json.loads(Path("request.json").read_text())
    np.testing.assert_array_equal(body["instances"], [np.asarray(Image.open("bundles/saved_model/golden/0.png"))])


@pytest.mark.slow
def test_pytorch(folder):
    needs_torch()
    fetch(width=64)  # the one width that torchvision has
    assert run_section("PyTorch")


@pytest.mark.slow
def test_jax(folder):
    assert run_section("JAX")


@pytest.mark.slow
def test_search_with_faiss(folder, images):
    shutil.copytree(images, "photos")
    Path("queries").mkdir()
    names = sorted(path.stem for path in Path("photos").iterdir())[:5]
    for name in names:
        shutil.copy(f"photos/{name}.jpg", f"queries/Q{name}.jpg")
    printed = run_section("Search with faiss")
    assert [line.split() for line in printed.splitlines()] == [[f"Q{name}", name, "1.00"] for name in names]
