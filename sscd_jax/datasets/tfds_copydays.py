"""Builds Copydays as a TFDS data set, from images on disk:

tfds build copydays --imports sscd_jax.datasets.tfds_copydays --manual_dir COPYDAYS --file_format array_record
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.datasets.copydays import find, open_images

_DESCRIPTION = """
Copydays has 157 photographs and copies of them, for copy detection. Its blocks are the splits: original; strong, 229
copies that were printed and scanned, blurred, painted on or the like; jpegqual_3 to jpegqual_75, reduced to 1/16 of the
pixels and compressed as JPEG of that quality; crops_10 to crops_80, with that percentage of the area cut away. All
images are queries. The references are the originals and distractors of another data set. Images are stored as the
bytes of their files.
"""
_CITATION = r"""
@inproceedings{douze2009evaluation,
  title = {Evaluation of {GIST} descriptors for web-scale image search},
  author = {Douze, Matthijs and J{\'e}gou, Herv{\'e} and Sandhawalia, Harsimrat and Amsaleg, Laurent and
            Schmid, Cordelia},
  booktitle = {Proceedings of the ACM International Conference on Image and Video Retrieval (CIVR)},
  year = {2009},
}
"""


class Copydays(tfds.core.GeneratorBasedBuilder):
    """Builds a split for each block. Blocks other than original and strong may be missing."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir is a folder with the folders original, strong, jpegqual/3 to jpegqual/75 and crops/10 to crops/80,
    directly or one level below, each with images such as 200000.jpg. Or it is a folder in which INRIA's
    copydays_original.tar.gz, copydays_strong.tar.gz, copydays_jpeg.tar.gz and copydays_crop.tar.gz were unpacked, all
    together or each in a folder with the name of the archive. jpegqual and crops may be missing.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        doc="The image; its file's bytes with decoders={'image': SkipDecoding()}."
                    ),
                    "image_id": tfds.features.Text(doc="Block and name, such as jpegqual/3/200001."),
                    "original_id": tfds.features.Text(doc="The image_id of the original; for an original, its own."),
                }
            ),
            homepage="https://thoth.inrialpes.fr/~jegou/data.php.html",
            citation=_CITATION,
            license="Copyright INRIA; provided as is, see the homepage.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        blocks = find(root)
        check_unique_ids(open_images(root, blocks))
        originals = {path.stem[:4]: f"original/{path.stem}" for path in blocks["original"]}
        for path in (path for paths in blocks.values() for path in paths):
            if path.stem[:4] not in originals:
                raise ValueError(f"{path} has no original: images of the block original are missing")
        return {
            block.replace("/", "_"): self._generate_examples(open_images(root, {block: paths}), originals)
            for block, paths in blocks.items()
        }

    def _generate_examples(self, source: Source, originals: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
        for image_id, path in zip(source.ids, source.paths, strict=True):
            yield image_id, {"image": path, "image_id": image_id, "original_id": originals[Path(path).stem[:4]]}
