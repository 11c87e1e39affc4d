"""Copydays as a TFDS data set, from images that are on disk:

tfds build copydays --imports sscd_jax.datasets.tfds_copydays --manual_dir COPYDAYS --file_format array_record
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.datasets.copydays import find, images

_DESCRIPTION = """
Copydays: 157 photographs and copies of them, for copy detection. Splits are its blocks: original; strong, 229 copies
that were printed and scanned, blurred, painted on and the like; jpegqual_3 to jpegqual_75, 1/16 of the pixels and JPEG
of that quality; crops_10 to crops_80, of which so many percent are cut away. All images are queries, originals and
distractors from elsewhere are searched. Images are the bytes of the files.
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
    """A split a block; fewer splits where blocks are missing, but originals and strong copies must be there."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The first."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir is a folder with the folders original, strong, jpegqual/3 to jpegqual/75 and crops/10 to crops/80, in it
    or one level down, each with images as 200000.jpg; or a folder where INRIA's copydays_original.tar.gz,
    copydays_strong.tar.gz, copydays_jpeg.tar.gz and copydays_crop.tar.gz were unpacked, all together or each in a
    folder of the archive's name. jpegqual and crops may be missing.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        doc="The file's bytes, which decoders={'image': SkipDecoding()} gives."
                    ),
                    "image_id": tfds.features.Text(doc="Block and name, as jpegqual/3/200001."),
                    "original_id": tfds.features.Text(doc="The image_id of the original; of originals their own."),
                }
            ),
            homepage="https://thoth.inrialpes.fr/~jegou/data.php.html",
            citation=_CITATION,
            license="Copyright INRIA; provided as is, see the homepage.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        blocks = find(root)
        check_unique_ids(images(root, blocks))
        originals = {path.stem[:4]: f"original/{path.stem}" for path in blocks["original"]}
        for path in (path for paths in blocks.values() for path in paths):
            if path.stem[:4] not in originals:
                raise ValueError(f"{path} has no original: images of the block original are missing")
        return {
            block.replace("/", "_"): self._generate_examples(images(root, {block: paths}), originals)
            for block, paths in blocks.items()
        }

    def _generate_examples(self, source: Source, originals: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
        for one, path in zip(source.ids, source.paths, strict=True):
            yield one, {"image": path, "image_id": one, "original_id": originals[Path(path).stem[:4]]}
