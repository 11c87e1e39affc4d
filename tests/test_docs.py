"""The blocks of the pages in docs/ do what they say, without packages they do not name.

A block of text is what the Python before it prints. Images have 64 pixels a side here, not 320: it takes seconds.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import batch_sizes
import numpy as np
import pytest
import roofline
from helpers.networks import needs_torch, seeded
from PIL import Image

from sscd_jax import config as configs
from sscd_jax.cli.main import main
from sscd_jax.config import Config, Data, Loss, Model, Optimizer, Validation
from sscd_jax.data.images import apply_preset, open_image
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.files import cache_folder
from sscd_jax.models import normalize
from sscd_jax.presets import PRESETS, Preset
from sscd_jax.weights.native import write_safetensors

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("serving", "embedding", "evaluation", "training")}
SECTIONS = {
    title: text
    for page in PAGES.values()
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
}
SERVER = ("tensorflow_model_server", "curl")  # are not run
# The modules of packages that an example may need.
MODULES = {
    "faiss-cpu": ["faiss"],
    "h5py": ["h5py"],
    "pandas": ["pandas"],
    "pyarrow": ["pyarrow"],
    "flatbuffers": [],  # of TensorFlow and onnxruntime too
    "jax": ["jax", "jaxlib"],
    "numpy": [],
    "onnxruntime": ["onnxruntime"],
    "pillow": ["PIL"],
    "safetensors": ["safetensors"],
    "sscd_jax": ["sscd_jax", "flax"],
    "tensorflow": ["tensorflow", "keras"],
    "torch": ["torch"],
    "torchvision": ["torchvision"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory, where sscd_disc_mixup is fetched: a narrow network with seeded weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(PRESETS, "skew_320", Preset("skew", 64))
    fetch(width=8)
    return tmp_path


def fetch(*, width: int) -> None:
    cache_folder("weights").mkdir(parents=True, exist_ok=True)
    write_safetensors(
        cache_folder("weights") / "sscd_disc_mixup.safetensors", *seeded("resnet50", 512, width=width), {}
    )


def run_section(title: str) -> str:
    """Runs a section's blocks in order; returns what its Python printed."""
    section, printed = SECTIONS[title], ""
    for language, block in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL):
        if language == "bash":
            for line in block.splitlines():
                command = shlex.split(line)
                if command[0] == "sscd-jax":
                    main(command[1:])
                elif command[0] not in SERVER:
                    subprocess.run(["bash", "-c", line], check=True, capture_output=True)
        elif language == "python":
            (named,) = re.findall(r"^Needs `pip install (.+)`\.$", section, re.MULTILINE)
            printed = python(block, named.split())
        else:
            assert language == "text"
            assert printed == block
    return printed


def python(code: str, packages: list[str]) -> str:
    """What the code prints where only these packages are installed; in a process of its own."""
    absent = sorted({module for name in MODULES.keys() - set(packages) for module in MODULES[name]})
    hide = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"  # their import is an ImportError
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # as mesh.start left them
    done = subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
        "Going on, sharing, adding",
        "Other tools",
        "DISC2021 and Copydays",
        "How sure",
        "A benchmark of your own images",
        "Calibrate",
        "At DISC2021's size",
        "As TFDS data sets",
        "A recipe for each batch",
        "What fits where",
        "A batch larger than memory",
        "Precision",
        "Input",
        "Stability",
        "Fine-tuning",
        "Interruptions",
        "Beside PyTorch",
    ]


@pytest.mark.parametrize("title", ["ONNX Runtime", "TensorFlow Serving", "PyTorch"])
def test_other_runtimes_need_no_jax(title):
    named = re.findall(r"Needs `pip install (.+)`", SECTIONS[title])[0].split()
    assert set(named) <= MODULES.keys() - {"jax", "sscd_jax"}


def test_bundles_and_onnxruntime(folder):
    pytest.importorskip("onnxruntime")
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
    image = np.asarray(apply_preset(open_image(source.load(0)), Preset("skew", 320)))
    difference = np.abs(prepared["pixels"].astype(int) - image)
    assert difference.max() <= 1, "Pillow's fixed point"
    assert difference.mean() < 0.01
    np.testing.assert_allclose(prepared["images"], normalize(prepared["pixels"]), atol=1e-6)


def test_embedding(folder, images):
    """The page's blocks in order; images and canvases are small."""
    shutil.copytree(images, "photos")
    first = re.findall(r"```bash\n(.*?)```", PAGES["embedding"], re.DOTALL)[0]
    main(shlex.split(first)[1:])
    run_section("Going on, sharing, adding")
    one, other = Descriptors.read("descriptors"), Descriptors.read("shared")
    assert (one.ids, len(one.ids)) == (other.ids, 40)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    table = set(re.findall(r"^\| `(.+?)`", SECTIONS["Going on, sharing, adding"], re.MULTILINE))
    there = {path.name + ("/" if path.is_dir() else "") for path in Path("descriptors").iterdir()}
    assert there == table - {"errors-00000.jsonl"}
    assert run_section("Other tools") == "True\n"
    names = set(re.findall(r"^\| `(.+?)`", SECTIONS["Presets"], re.MULTILINE))
    assert names == {"--preset", *PRESETS, "custom"}


def test_evaluation(folder, images, capsys):
    """The page's sections in order, on DISC2021 and Copydays in small."""
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
    run_section("How sure")
    assert capsys.readouterr().out.count("within noise") >= 1
    beside = {path.name for path in Path("DISC/descriptors/val.disc").iterdir()}
    page = SECTIONS["How sure"].split("| File |")[1]
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


def test_tensorflow_serving(folder):
    run_section("TensorFlow Serving")
    (command,) = re.findall(r"^tensorflow_model_server .*", SECTIONS["TensorFlow Serving"], re.MULTILINE)
    (versions,) = re.findall(r'--model_base_path="\$PWD/(.+?)"', command)
    assert (folder / versions / "1" / "saved_model.pb").is_file()
    body = json.loads(Path("request.json").read_text())
    np.testing.assert_array_equal(body["instances"], [np.asarray(Image.open("bundles/saved_model/golden/0.png"))])


def test_pytorch(folder):
    needs_torch()
    fetch(width=64)  # the one width that torchvision has
    assert run_section("PyTorch")


def test_jax(folder):
    assert run_section("JAX")


def test_search_with_faiss(folder, images):
    shutil.copytree(images, "photos")
    Path("queries").mkdir()
    names = sorted(path.stem for path in Path("photos").iterdir())[:5]
    for name in names:
        shutil.copy(f"photos/{name}.jpg", f"queries/Q{name}.jpg")
    printed = run_section("Search with faiss")
    assert [line.split() for line in printed.splitlines()] == [[f"Q{name}", name, "1.00"] for name in names]


# Of the page of training, with the reason: what they print was copied.
NOT_RUN = {
    "scripts/batch_sizes.py": "many trainings; in small below",
    "scripts/benchmarks/convolutions.py": "the time of this machine",
    "scripts/benchmarks/microbatch.py": "minutes of compiling",
    "scripts/compile_for_tpu.py": "minutes, and the package libtpu; in small in test_roofline.py",
    "scripts/benchmarks/train_step.py": "minutes, and the time of this machine",
    "scripts/precision.py": "many trainings",
    "scripts/random_kills.py": "half an hour; in small in test_random_kills.py",
}


def test_training(folder, images, monkeypatch):
    """The page's runs, two steps of a narrow network on a few small images."""
    page = PAGES["training"]
    (folder / "configs").symlink_to(DOCS.parent / "configs")
    for name in ("DISC2021/training", "photos"):
        shutil.copytree(images, name)
    narrow = "--model.backbone resnet18 --model.width 8 --model.dims 24 --data.image-size 32 --data.batch-size 16"
    write_safetensors(cache_folder("weights") / "sscd_disc_mixup.safetensors", *seeded("resnet18", 24, width=8), {})
    commands = [
        shlex.split(line) for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()
    ]
    runs = [command for command in commands if command[0] == "sscd-jax"]
    assert [command[1] for command in runs] == ["train"] * 4
    for command in runs:
        pieces = ["--microbatch", "8"] if "--microbatch" in command else []
        main([*command[1:], *narrow.split(), "--steps", "2", "--optimizer.warmup-steps", "1", *pieces])
        assert (Path(command[command.index("--workdir") + 1]) / "checkpoints" / "2").is_dir()
    scripts = set(re.findall(r"python (scripts/\S+\.py)", page))
    assert scripts == NOT_RUN.keys() | {"scripts/roofline.py"}
    assert all((DOCS.parent / script).is_file() for script in scripts)


def test_the_tables_of_the_training_page_are_of_the_commands_above_them():
    found = re.findall(r"python scripts/batch_sizes.py (.*?)\n```\n\n```text\n(.*?)```", PAGES["training"], re.DOTALL)
    assert len(found) == 2
    for command, said in found:
        settings = [setting.split(",") for setting in command.split(" --")[0].split()]
        assert [line.split()[:4] for line in said.splitlines()[1:]] == settings


def test_batch_sizes(images, tmp_path, monkeypatch, capsys):
    """A setting, two seeds, four steps of a narrow network."""
    truth = tmp_path / "truth.csv"
    truth.write_text("query_id,reference_id\n" + "".join(f"{path.stem},{path.stem}\n" for path in images.iterdir()))
    (tmp_path / "images").mkdir()

    def small(_: Path, *, seed: int, steps: int) -> Config:
        return Config(
            seed=seed,
            steps=steps,
            data=Data(source=str(images), image_size=32),
            model=Model(backbone="resnet18", dims=16, width=8),
            optimizer=Optimizer(warmup_steps=0),
            validation=Validation(str(images), str(images), str(truth), custom=Preset("skew", 32)),
        )

    monkeypatch.setattr(batch_sizes, "demo_config", small)
    monkeypatch.setattr(
        "sys.argv", ["batch_sizes.py", "8,0.5,2,3", "--seeds", "0", "1", "--images", "32", "--out", str(tmp_path)]
    )
    batch_sizes.main()
    header, row = capsys.readouterr().out.splitlines()
    names = ["batch", "rate", "entropy weight", "its warm-up", "steps", "uAP", "standard error", "positive_sim"]
    assert re.split("  +", header) == [*names, "nearest_negative_sim"]
    assert row.split()[:7] == ["8", "0.5", "2", "3", "4", "1.000", "0.000"], "an image is its own copy"
    run = configs.from_dict(json.loads((tmp_path / "8,0.5,2,3,1" / "config.json").read_text()))
    assert (run.seed, run.data.batch_size, run.loss) == (1, 8, Loss(entropy_weight=2, entropy_warmup_steps=3))
    assert configs.learning_rate(run) == 0.5


def test_the_estimate_of_the_pipelines_page():
    page = (DOCS / "beam.md").read_text()
    ((command, said),) = re.findall(r"```bash\n(python scripts/.*?)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], capture_output=True, text=True, cwd=DOCS.parent)
    assert done.stdout == said


@pytest.mark.parametrize(("name", "count"), [("pods", 5), ("training", 1)])
def test_the_estimates_of_a_step(name, count, capsys, monkeypatch):
    """What scripts/compile_for_tpu.py prints takes minutes and the package libtpu: it was copied."""
    monkeypatch.chdir(DOCS.parent)
    page = (DOCS / f"{name}.md").read_text()
    blocks = re.findall(r"```bash\npython scripts/roofline.py (.*?)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == count
    for arguments, said in blocks:
        roofline.main(shlex.split(arguments))
        assert capsys.readouterr().out == said


def test_the_pods_page_packs(folder, images):
    """To a store in memory in the bucket's place."""
    shutil.copytree(images, "photos")
    (command,) = re.findall(r"^sscd-jax pack .*", (DOCS / "pods.md").read_text(), re.MULTILINE)
    main(shlex.split(command.replace("gs://BUCKET", "ram://docs"))[1:])
    packed, there = open_source("ram://docs/photos"), open_source("photos")
    assert packed.ids == there.ids
    assert [packed.load(k) for k in range(40)] == [there.load(k) for k in range(40)]
