"""Builds DISC2021 as a TFDS data set, from images on disk:

tfds build disc2021 --imports sscd_jax.datasets.tfds_disc2021 --manual_dir DISC --file_format array_record
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.datasets.annotations import read_ground_truth
from sscd_jax.datasets.disc2021 import find_all, open_images

_DESCRIPTION = """
DISC2021, the data set of the Image Similarity Challenge at NeurIPS 2021, has a million references, a million similar
training images that match nothing, and queries, some of which are edited copies of references while most copy nothing.
The splits are train, references, dev_queries, test_queries, and val_queries (of the official code of SSCD), as far as
they were on disk. Images are stored as the bytes of their files.
"""
_CITATION = r"""
@article{douze2021image,
  title = {The 2021 Image Similarity Dataset and Challenge},
  author = {Douze, Matthijs and Tolias, Giorgos and Pizzi, Ed and Papakipos, Zo{\"e} and Chanussot, Lowik and
            Radenovic, Filip and Jenicek, Tomas and Maximov, Maxim and Leal-Taix{\'e}, Laura and Elezi, Ismail and
            Chum, Ond{\v{r}}ej and Canton Ferrer, Cristian},
  journal = {arXiv preprint arXiv:2106.09672},
  year = {2021},
}
"""


class Disc2021(tfds.core.GeneratorBasedBuilder):
    """Builds a split for each part that is on disk. All queries share the references and training images."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download DISC21 from https://ai.meta.com/datasets/disc21-downloads and unpack it. manual_dir is a folder with any of
    references, train, dev_queries and dev_queries_groundtruth.csv, test_queries and test_queries_groundtruth.csv. Each
    folder may be in parts, such as references_0 and references_1. The names of the official code of SSCD also work:
    val_ref, training, val_query and val_groundtruth_matches.csv. Queries need their ground truth and the references.
    Training images and references do not need queries.
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
                    "image_id": tfds.features.Text(
                        doc="The file's name without extension, such as Q00001, as in the ground truth."
                    ),
                    "reference_ids": tfds.features.Sequence(
                        tfds.features.Text(),
                        doc="The references that a query copies; empty for queries that copy nothing.",
                    ),
                }
            ),
            homepage="https://ai.meta.com/datasets/disc21-dataset",
            citation=_CITATION,
            license="Meta's terms for DISC21, see the download page.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folders, truths = find_all(Path(dl_manager.manual_dir))
        generators = {}
        for name, parts in folders.items():
            source = open_images(parts)
            check_unique_ids(source)
            references: dict[str, list[str]] = defaultdict(list)
            if name in truths:
                for query, reference in read_ground_truth(truths[name]):
                    references[query].append(reference)
                if absent := sorted({*references} - {*source.ids}):
                    raise ValueError(
                        f"{len(absent)} queries of {truths[name]} are not in {parts[0]}, "
                        f"such as {', '.join(absent[:3])}"
                    )
            generators[name] = self._generate_examples(source, references)
        return generators

    def _generate_examples(
        self, source: Source, references: dict[str, list[str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for image_id, path in zip(source.ids, source.paths, strict=True):
            yield image_id, {"image": path, "image_id": image_id, "reference_ids": references.get(image_id, [])}
