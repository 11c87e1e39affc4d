"""The command that measures as on Copydays."""

import sys
from pathlib import Path

from sscd_jax.cli.output import checked, facts_of, leave, sources_of
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation.results import Evaluation
from sscd_jax.presets import PresetName, choose


def evaluate_copydays(
    copydays: Path | None = None,
    distractors: str | None = None,
    training: str | None = None,
    root: Path | None = None,
    weights: str | None = None,
    descriptors: Path | None = None,
    preset: PresetName = "small_288",
    codecs: tuple[str, ...] = (),
    k: int = 100,
    bootstrap: int = 1000,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on Copydays with distractors: a row for each codec.

    Either from descriptors: --copydays, and maybe --distractors and --training. Or from Copydays' folders: --root and
    --weights; what is not embedded yet is.

    Args:
        copydays: Descriptors of Copydays' folder, whose ids are as strong/200001.
        distractors: Descriptors of pictures that are searched besides the originals; the paper takes 10,000. With
            --root also the pictures, as IMAGES of `sscd-jax embed`.
        training: Descriptors that codecs are fitted on; with --root also pictures.
        root: Folder with original, strong, jpegqual/3 to jpegqual/75 and crops/10 to crops/80, as the official code has
            them, or with what INRIA's archives unpack to.
        weights: Weights for --root, as of `sscd-jax embed`.
        descriptors: Folder for the descriptors of --root; by default ROOT/descriptors.
        preset: How the pictures of --root are resized and normalised.
        codecs: faiss factory strings that end in Flat; by default Flat, and whitening to the full length where there
            are enough training descriptors.
        k: Neighbours of a query that count.
        bootstrap: Sets of queries to draw for the intervals; 0 for none.
        out: JSON file for the rows, with the mAP of each block; by default COPYDAYS.copydays.json, with --root
            DESCRIPTORS/copydays.copydays.json. Charts and tables go to the folder beside it.
    """
    from sscd_jax.evaluation import copydays as evaluated
    from sscd_jax.evaluation import disc

    if bootstrap < 0:
        raise ValueError(f"--bootstrap {bootstrap}: it must be 0 for none, or more")
    sets: dict[str, Path | None]
    if root:
        if copydays:
            raise ValueError("--root says where Copydays is: leave out --copydays")
        if not weights:
            raise ValueError("--root needs --weights, to embed its pictures")
        sets = _copydays_folder(root, weights, descriptors or root / "descriptors", preset, distractors, training)
    elif copydays:
        if weights or descriptors:
            raise ValueError("--weights and --descriptors go with --root")
        sets = {
            "copydays": copydays,
            "distractors": Path(distractors) if distractors else None,
            "training": Path(training) if training else None,
        }
    else:
        raise ValueError("give --copydays, or --root and --weights")
    where = sets["copydays"]
    assert where is not None
    out = checked(out or where.with_name(f"{where.name}.copydays.json"))
    read = {name: Descriptors.read(path) if path else None for name, path in sets.items()}
    pictures, background = read["copydays"], read["training"]
    assert pictures is not None
    codecs = codecs or tuple(disc.default_codecs(background))
    found = evaluated.predict(pictures, read["distractors"], background, codecs=codecs, k=k)
    rows = [evaluated.measure(one, pictures.ids, bootstrap=bootstrap) for one in found]
    if len(pictures.ids) != evaluated.PICTURES:
        missing = [block for block in evaluated.BLOCKS if block not in rows[0]["block_mAP"]]
        without = f"; without {', '.join(missing)}" if missing else ""
        print(f"{where} has {len(pictures.ids)} pictures; Copydays has {evaluated.PICTURES}{without}", file=sys.stderr)
    searched = evaluated.reference_ids(pictures, read["distractors"])
    truth = evaluated.ground_truth(pictures)
    evaluation = Evaluation(
        rows,
        found,
        pictures.ids,
        searched,
        truth,
        facts=facts_of(read),
        sources=[*sources_of(queries=pictures, references=pictures), *sources_of(references=read["distractors"])],
    )
    leave(out, evaluation)


def _copydays_folder(
    root: Path, weights: str, descriptors: Path, preset: PresetName, distractors: str | None, training: str | None
) -> dict[str, Path | None]:
    """Folders of descriptors."""
    from sscd_jax import weights as known_weights
    from sscd_jax.embedding.copydays_folders import embed_copydays, find

    find(root)  # before weights, which take longer
    return embed_copydays(
        root,
        *known_weights.load(weights),
        choose(preset),
        descriptors,
        distractors=distractors,
        training=training,
    )
