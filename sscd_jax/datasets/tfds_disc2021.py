"""DISC2021 as a TFDS data set, from images that are on disk:

tfds build disc2021 --imports sscd_jax.datasets.tfds_disc2021 --manual_dir DISC --file_format array_record
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.datasets.annotations import read_ground_truth
from sscd_jax.datasets.disc2021 import find_all, images

_DESCRIPTION = """
DISC2021, of the Image Similarity Challenge at NeurIPS 2021: a million references, a million training images that are
like them and match nothing, and queries, of which some are edited copies of references and most copy nothing. Splits
are those of train, references, dev_queries, test_queries, and val_queries (as the official code of SSCD has them) that
were on disk. Images are the bytes of the files.
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
    """A split for each part that is on disk; references and training images are in it once for all queries."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The first."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download DISC21 from https://ai.meta.com/datasets/disc21-downloads and unpack it. manual_dir is a folder with what
    you want of: references, train, dev_queries and dev_queries_groundtruth.csv, test_queries and
    test_queries_groundtruth.csv, each folder whole or in parts as references_0, references_1; or, as the official code
    of SSCD has them, val_ref, training, val_query and val_groundtruth_matches.csv. Queries need their ground truth and
    the references; training images and references may be alone.
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
                    "image_id": tfds.features.Text(
                        doc="The file's name, as Q00001: what the ground truth knows it by."
                    ),
                    "reference_ids": tfds.features.Sequence(
                        tfds.features.Text(), doc="What a query was made from; none of queries that copy nothing."
                    ),
                }
            ),
            homepage="https://ai.meta.com/datasets/disc21-dataset",
            citation=_CITATION,
            license="Meta's terms for DISC21, which its download page has.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folders, truths = find_all(Path(dl_manager.manual_dir))
        generators = {}
        for name, some in folders.items():
            source = images(some)
            check_unique_ids(source)
            references: dict[str, list[str]] = defaultdict(list)
            if name in truths:
                for query, reference in read_ground_truth(truths[name]):
                    references[query].append(reference)
                if absent := sorted({*references} - {*source.ids}):
                    raise ValueError(
                        f"{len(absent)} queries of {truths[name]} are not in {some[0]}, as {', '.join(absent[:3])}"
                    )
            generators[name] = self._generate_examples(source, references)
        return generators

    def _generate_examples(
        self, source: Source, references: dict[str, list[str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for one, path in zip(source.ids, source.paths, strict=True):
            yield one, {"image": path, "image_id": one, "reference_ids": references.get(one, [])}
