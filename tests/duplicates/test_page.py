"""The pages of duplicates: groups in, HTML out; and as a real browser shows it."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.html_page import Page
from PIL import Image

from sscd_jax.data.names import printable
from sscd_jax.duplicates.page import Member, PageGroup, Summary, write_pages
from sscd_jax.duplicates.page_files import GENERATOR, page_name

SUMMARY = Summary(
    images=1234,
    removed=95,
    bytes_freed=3_449_000,
    threshold=0.6,
    kept="It has the most pixels.",
    background=True,
    unreadable=2,
    weights="sscd_<x>",
    preset="skew_320",
    scores=[0.61, 0.9, 0.9],
)


def encoded(color: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (300, 200), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def kept(one: str) -> Member:
    return Member(one, 300, 200, 2_000, None, None, "")


def near(one: str, score: float) -> Member:
    return Member(one, 150, 100, 999, score + 0.1, score, "near")


def pairs(count: int) -> Iterator[PageGroup]:
    return (PageGroup(n, [kept(f"a{n}"), near(f"b{n}", 0.65)], 0.75) for n in range(1, count + 1))


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def pixels(uri: str) -> Image.Image:
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def shown(page: Page) -> dict[str, Image.Image]:
    return {a["alt"]: pixels(a["src"]) for tag, a, _ in page.elements if tag == "img"}


def links(page: Page) -> dict[str, str]:
    return {" ".join(texts).strip(): a["href"] for tag, a, texts in page.elements if tag == "a"}


def test_all_groups_are_on_the_pages_in_their_order(tmp_path):
    paths = write_pages(tmp_path, pairs(95), 95, SUMMARY, lambda one: encoded())
    assert [path.name for path in paths] == ["duplicates.html", "duplicates-2.html", "duplicates-3.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    pages = [read(path) for path in paths]
    assert [text for page in pages for text in page.texts("h3")] == [f"Group {n}" for n in range(1, 96)]
    assert [len(page.texts("article")) for page in pages] == [40, 40, 15]
    assert [page.texts("h2")[-1] for page in pages] == [
        "Groups 1 to 40 of 95",
        "Groups 41 to 80 of 95",
        "Groups 81 to 95 of 95",
    ]
    one, two, three = (page_name(page) for page in (1, 2, 3))
    assert links(pages[0]) == {"2": two, "3": three, "Next": two, "Last": three}
    assert links(pages[1]) == {"First": one, "Previous": one, "1": one, "3": three, "Next": three, "Last": three}
    assert links(pages[2]) == {"First": one, "Previous": two, "1": one, "2": two}
    assert [page.texts("title") for page in pages] == [[f"Duplicate images, page {page} of 3"] for page in (1, 2, 3)]
    assert all(GENERATOR in path.read_text() for path in paths)


def test_links_of_many_pages_leave_gaps(tmp_path):
    paths = write_pages(tmp_path, pairs(40 * 11), 440, SUMMARY, lambda one: b"")
    numbers = [text for text in read(paths[5]).texts("nav")[0].split() if not text.isalpha()]
    assert numbers == ["1", "…", "4", "5", "6", "7", "8", "…", "11"]


def test_the_first_page_has_the_summary(tmp_path):
    (path,) = write_pages(tmp_path, pairs(1), 1, SUMMARY, lambda one: encoded())
    page = read(path)
    assert page.texts("b") == ["1,234", "1", "95", "3.4 MB"]
    told = " ".join(page.texts("main"))
    for words in (
        "score is at least 0.600",
        "less the similarity of each to unrelated images",
        "It has the most pixels.",
        "the weights sscd_<x> and the preset skew_320",
        "2 images could not be read and were left out. The file errors.jsonl beside this page lists them.",
        f"sscd-jax dedup apply {tmp_path} --move-to FOLDER",
        f"sscd-jax dedup undo {tmp_path}",
    ):
        assert words in told, words
    bars = [a for tag, a, _ in page.elements if tag == "i" and "title" in a]
    assert [a["title"].split()[0] for a in bars if not a["title"].startswith("0 ")] == ["1", "2"]
    assert bars[-1]["style"] == "height: 100.0%"
    assert not [a for a in bars if "class" in a]
    assert "below the threshold" not in told
    assert not page.texts("nav")


def test_a_folder_that_is_not_absolute_or_has_spaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my photos").mkdir()
    (path,) = write_pages(Path("my photos"), pairs(1), 1, SUMMARY, lambda one: encoded())
    told = read(path).texts("main")[0]
    assert "sscd-jax dedup undo 'my photos'" in told
    assert "in the folder in which you ran sscd-jax dedup" in told


def test_no_duplicates(tmp_path):
    summary = replace(SUMMARY, removed=0, bytes_freed=0, unreadable=0, background=False, scores=[])
    (path,) = write_pages(tmp_path, [], 0, summary, lambda one: b"")
    page = read(path)
    assert page.texts("h1") == ["No duplicate images"]
    assert "among 1,234 images, no two are duplicates" in page.texts("main")[0]
    assert not page.texts("article")
    assert "dedup apply" not in page.texts("main")[0]
    assert "could not be read" not in page.texts("main")[0]


def test_a_group_says_how_each_image_matches(tmp_path):
    members = [
        kept("k"),
        Member("same", 300, 200, 2_000, 1.0, 0.9, "bytes"),
        Member("pixels", None, None, None, 1.0, 0.9, "pixels"),
        near("sure", 0.8),
        near("at", 0.6001),
        near("chained", 0.58),
    ]
    (path,) = write_pages(tmp_path, [PageGroup(7, members, 0.512)], 1, replace(SUMMARY, scores=[0.58, 0.9]), encode_any)
    page = read(path)
    first, *others = (text.replace("\u00d7", "x") for text in page.texts("li"))
    assert first == "keep k 300 x 200, 2.0 kB"
    assert others == [
        "remove chained 150 x 100, 999 bytes near, score 0.580 similarity 0.680 0.020 below the threshold",
        "remove at 150 x 100, 999 bytes near, score 0.600 similarity 0.700 at the threshold",
        "remove sure 150 x 100, 999 bytes near, score 0.800 similarity 0.900 0.200 above the threshold",
        "remove same 300 x 200, 2.0 kB same bytes, score 0.900 similarity 1.000",
        "remove pixels same pixels, score 0.900 similarity 1.000",
    ]
    assert "least alike have a similarity of 0.512." in page.texts("article")[0]
    assert "Red bars are below the threshold." in page.texts("figcaption")[0]
    red = [a["title"] for tag, a, _ in page.elements if tag == "i" and a.get("class") == "below"]
    assert red == ["1 image with a score from 0.580 to 0.593"]


def encode_any(one: str) -> bytes:
    return encoded()


def test_a_large_group_shows_its_most_doubtful_images(tmp_path):
    others = [near(f"n{k}", 0.6 + k / 100) for k in range(30)]
    group = PageGroup(1, [kept("k"), Member("same", 1, 1, 1, 1.0, 0.5, "bytes"), *reversed(others)], None)
    asked = []
    (path,) = write_pages(tmp_path, [group], 1, SUMMARY, lambda one: asked.append(one) or encoded())
    page = read(path)
    assert list(shown(page)) == ["k", *(f"n{k}" for k in range(11))]
    assert sorted(asked) == sorted(shown(page))  # the others are not read
    assert "20 more images of this group are to be removed." in page.texts("article")[0]
    assert "32 images" in page.texts("article")[0]


def test_thumbnails_are_small_and_upright_and_carry_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "a secret"
    data = {
        "wide": encoded(size=(4000, 1000)),
        "turned": encoded(size=(900, 600), exif=exif, comment=b"a secret", icc_profile=b"a secret"),
        "thin": encoded(size=(3000, 1)),
        "tiny": encoded(size=(20, 10)),
    }
    group = PageGroup(1, [kept("wide"), *(near(one, 0.7) for one in ("turned", "thin", "tiny"))], None)
    (path,) = write_pages(tmp_path, [group], 1, SUMMARY, data.__getitem__)
    images = shown(read(path))
    assert {one: image.size for one, image in images.items()} == {
        "wide": (208, 52),
        "turned": (139, 208),
        "thin": (208, 1),
        "tiny": (20, 10),
    }
    assert not {"exif", "comment", "icc_profile"} & set(images["turned"].info)
    assert images["wide"].convert("RGB").getpixel((9, 9))[0] > 180


@pytest.mark.parametrize("broken", ["damaged", "gone", "bomb"])
def test_an_image_that_cannot_be_read(tmp_path, broken):
    header = b"P6 20000 20000 255\n"  # 400 million pixels

    def load(one: str) -> bytes:
        if one == "gone":
            raise FileNotFoundError(one)
        return {"damaged": encoded()[:100], "bomb": header}.get(one) or encoded()

    group = PageGroup(1, [kept("k"), near(broken, 0.7)], None)
    (path,) = write_pages(tmp_path, [group], 1, SUMMARY, load)
    page = read(path)
    assert list(shown(page)) == ["k"]
    assert page.texts("div", "frame") == ["", "cannot be read"]
    assert broken in page.texts("div", "id")


HOSTILE = {
    "markup": "</li></main><script>alert(1)</script>",
    "quotes": "\"'><img src=x onerror=alert(1)>",
    "control": "a\x1b[31m\n\x00\x07b",
    "direction": "abc\u202egpj.exe\u200f",
    "surrogate": "\udcff",
    "template": "{{ 7 * 7 }}{% raw %}",
    "long": "x/" * 150,
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_names_of_any_kind(tmp_path, name):
    """As ids, weights and sentences. No character of them changes anything but the place where it stands."""
    asked = []
    summary = replace(SUMMARY, weights=name, kept=name)
    group = PageGroup(1, [kept(name), near(f"{name}2", 0.7)], None)
    (path,) = write_pages(tmp_path, [group], 1, summary, lambda one: asked.append(one) or encoded())
    text = path.read_text(encoding="utf-8")
    assert all(character.isprintable() or character == "\n" for character in text)
    page = Page(text)
    assert page.texts("bdi") == [" ".join(printable(one).split()) for one in (name, f"{name}2")]
    assert list(shown(page)) == [printable(name), printable(f"{name}2")]
    assert sorted(asked) == sorted([name, f"{name}2"])
    check_nothing_is_loaded(page)


def check_nothing_is_loaded(page: Page) -> None:
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "base", "form"}
    for _, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert re.fullmatch(r"data:.*|duplicates(-\d+)?\.html", attributes.get(name, "data:"))
        assert not any(name.startswith("on") for name in attributes)
    policy = [
        a["content"] for tag, a, _ in page.elements if "content-security-policy" in a.get("http-equiv", "").lower()
    ]
    assert policy == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    (style,) = page.texts("style")
    assert not re.search(r"url\(|@import|@font-face", style)


def test_nothing_is_loaded_from_outside(tmp_path):
    for path in write_pages(tmp_path, pairs(41), 41, SUMMARY, lambda one: encoded()):
        check_nothing_is_loaded(read(path))
        assert not re.search(r"https?://", path.read_text())


def test_pages_of_an_earlier_run_go_and_other_files_stay(tmp_path):
    write_pages(tmp_path, pairs(121), 121, SUMMARY, lambda one: b"")
    mine = ["duplicates-5.html", "duplicates-x.html", "duplicates-03.html", "my-duplicates-4.html", "duplicates.json"]
    for name in mine:
        (tmp_path / name).write_text("not ours" if name == mine[0] else GENERATOR)
    assert (tmp_path / "duplicates-4.html").exists()
    write_pages(tmp_path, pairs(41), 41, SUMMARY, lambda one: b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*mine, "duplicates.html", "duplicates-2.html"])


def test_a_file_that_is_not_ours_stays_and_nothing_is_written(tmp_path):
    (tmp_path / "duplicates-2.html").write_text("mine")
    with pytest.raises(ValueError, match=r"duplicates-2\.html exists already"):
        write_pages(tmp_path, pairs(41), 41, SUMMARY, lambda one: b"")
    assert [path.name for path in tmp_path.iterdir()] == ["duplicates-2.html"]


@pytest.mark.parametrize(("there", "count"), [(39, 41), (40, 41), (42, 41), (1, 0)])
def test_the_count_is_that_of_the_groups(tmp_path, there, count):
    with pytest.raises(ValueError, match="items than"):
        write_pages(tmp_path, pairs(there), count, SUMMARY, lambda one: b"")


def test_an_error_of_another_kind_ends_it(tmp_path):
    def load(one: str) -> bytes:
        raise KeyError(one)

    with pytest.raises(KeyError):
        write_pages(tmp_path, pairs(1), 1, SUMMARY, load)
    assert not list(tmp_path.iterdir())


def test_groups_are_taken_page_by_page(tmp_path):
    """So that those of later pages need not exist yet, and those of earlier ones are free."""
    seen = []

    def groups() -> Iterator[PageGroup]:
        for group in pairs(81):
            seen.append((group.number, len(list(tmp_path.glob("*.html")))))
            yield group

    write_pages(tmp_path, groups(), 81, SUMMARY, lambda one: b"")
    assert [written for _, written in seen] == [0] * 40 + [1] * 40 + [2]


def test_it_imports_no_plots_and_no_networks():
    code = "import sys, sscd_jax.duplicates.page; print({'jax', 'tensorflow', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[str, int, int], Image.Image]:
    """What headless Chromium shows of a page of HTML."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium: .ci/run is to install it")
        pytest.skip("no Chromium here; with one, this test opens the pages in it")

    def run(page: str, width: int, height: int) -> Image.Image:
        (tmp_path / "shown.html").write_text(page)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        place = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'shown.png'}"]
        subprocess.run(
            [browser, *flags, *place, f"--window-size={width},{height}", (tmp_path / "shown.html").as_uri()],
            capture_output=True,
            timeout=90,
            check=True,
        )
        return Image.open(tmp_path / "shown.png").convert("RGB")

    return run


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_all_of_it(tmp_path, picture, width):
    """Each image has its own color, which is found on the picture; nothing is wider than the window."""
    members = [kept(HOSTILE["long"]), *(near(f"{k}" * 300, 0.7) for k in range(1, 6))]
    colors = {m.id: (40 * k, 255 - 40 * k, 255) for k, m in enumerate(members)}
    (path,) = write_pages(
        tmp_path, [PageGroup(1, members, 0.6)], 1, SUMMARY, lambda one: encoded(colors[one], size=(200, 200))
    )
    frame = f'<body style="margin:0"><iframe src="{path.as_uri()}" style="width:{width}px;height:5000px;border:0">'
    seen = picture(frame, max(width, 600), 5000).crop((0, 0, width, 5000))
    places = {}
    for one, color in colors.items():
        rows = [seen.getpixel((x, y)) for y in range(0, 5000, 20) for x in range(0, width, 10)]
        hits = [n for n, found in enumerate(rows) if max(abs(a - b) for a, b in zip(found, color, strict=True)) < 9]
        places[one] = len(hits)
    assert all(number > 40 for number in places.values()), places
    edge = {seen.getpixel((width - 2, y)) for y in range(0, 5000, 10)}
    assert len(edge) == 1, "something reaches the edge of the window"
