"""The training loop: `train(config, workdir)` reads from top to bottom."""

import contextlib
import dataclasses
import json
import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import Partial

from sscd_jax import config as configs
from sscd_jax.config import Config
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import check_batches, numpy_batches, train_batches
from sscd_jax.distributed import check_same_on_all_processes, finish_together, has_other_processes, is_first_process
from sscd_jax.files import check_file, write_text
from sscd_jax.losses import sscd_loss
from sscd_jax.models import SSCD, build_model, normalize
from sscd_jax.optimizer import lars, warmup_cosine
from sscd_jax.sharding import check_divisible, create_mesh, replicated, to_devices
from sscd_jax.training import checkpoint, device_augment
from sscd_jax.training import state as train_state
from sscd_jax.training.init_from import start_from
from sscd_jax.training.log import TrainLog, latest_metrics
from sscd_jax.training.microbatch import gradients_in_pieces
from sscd_jax.training.preemption import deferred_interrupt
from sscd_jax.training.profiling import Profile
from sscd_jax.training.state import TrainState
from sscd_jax.training.validation import open_validation, validate
from sscd_jax.weights import runs


def train_step(
    state: TrainState,
    images: Array,
    instance_ids: Array,
    color_ops: dict[str, Array] | None = None,
    mixing: dict[str, Array] | None = None,
    *,
    model: SSCD,
    optimizer: optax.GradientTransformation,
    loss: configs.Loss,
    mixup_group: int = 0,
    pieces: int = 1,
    devices: int = 1,
) -> tuple[TrainState, dict[str, Array]]:
    """Computes one step of training on the global batch.

    Args:
        state: the state before the step.
        images: uint8 [M, S, S, 3], the views, sharded over the devices by rows.
        instance_ids: int [M] or [M, 2], the source images of each view (`losses.match_matrix`).
        color_ops: the arguments of `device_augment.color_ops`, if the host leaves these to the devices.
        mixing: the arguments `share` and `box` of `device_augment.mix`, if the host leaves mixing to the devices.
        model: the network.
        optimizer: the optimizer whose state `state` holds.
        loss: temperature, weight and warm-up of the loss.
        mixup_group: the number of images of a mixing group; used only with `mixing`.
        pieces: the number of pieces in which the batch is computed (`microbatch.gradients_in_pieces`).
        devices: the number of devices; used only if pieces > 1.

    Returns:
        The state after the step, and its metrics: float32 scalars, those of `losses.sscd_loss` with loss and
        gradient_norm.
    """
    if color_ops is not None:
        images = device_augment.color_ops(images, **color_ops)
    if mixing is not None:
        images = device_augment.mix(images, **mixing, group=mixup_group, processes=jax.process_count())

    weight: Array | float = loss.entropy_weight
    if loss.entropy_warmup_steps:
        weight *= jnp.minimum((state.step + 1) / loss.entropy_warmup_steps, 1.0)

    def embed(params: optax.Params, views: Array) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        embeddings, updates = model.apply(variables, normalize(views), train=True, mutable=["batch_stats"])
        return embeddings, updates["batch_stats"]

    def loss_of(embeddings: Array) -> tuple[Array, dict[str, Array]]:
        return sscd_loss(
            embeddings,
            instance_ids,
            temperature=loss.temperature,
            entropy_weight=weight,
            blocks=pieces,
            devices=devices,
        )

    def loss_fn(params: optax.Params) -> tuple[Array, Any]:
        embeddings, batch_stats = embed(params, images)
        value, metrics = loss_of(embeddings)
        return value, (metrics, batch_stats)

    if pieces == 1:
        (value, (metrics, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    else:
        value, metrics, batch_stats, gradients = gradients_in_pieces(
            embed, loss_of, state.params, images, pieces=pieces, devices=devices
        )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": value} | metrics | {"gradient_norm": optax.tree.norm(gradients)}
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def train(config: Config, workdir: Path) -> dict[str, float]:
    """Trains a network, or resumes the run in `workdir` from its latest checkpoint.

    Writes to `workdir`: checkpoints/, config.json, metrics.jsonl (one line for each step), TensorBoard events, and
    errors.jsonl if images could not be read. SIGTERM and the first Ctrl-C save a checkpoint after the current step; a
    process that is killed loses the steps since the latest checkpoint (`config.checkpoint.every_steps`).

    Args:
        config: the recipe.
        workdir: the folder of the run; it is created if it does not exist. Several processes share it.

    Returns:
        The latest value of each metric, by name.

    Raises:
        ValueError: the config cannot be run on these devices or this data; the error says what to change.
        FloatingPointError: the loss is not finite; the error names the step and the last good checkpoint.
        FullDiskError: the disk of `workdir` has no space left; the error says after which step the same call resumes.
        Preempted: SIGTERM arrived; the state is saved, and the same call resumes.
        Interrupted: Ctrl-C was pressed; the state is saved, and the same call resumes.
        KeyboardInterrupt: Ctrl-C was pressed again before the state was saved; the error says where the same
            call resumes.
    """
    # ---- Devices and data. Settings that cannot work are refused here, before any image is read.
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is a file: name a folder for the run")
    check_file(workdir / "config.json", lambda path: configs.from_dict(json.loads(path.read_text())))
    if re.match(r"[a-z][a-z0-9+.-]*:/", str(workdir)):
        raise ValueError(
            f"{workdir}: a run's folder must be on a disk; mount a bucket with Cloud Storage FUSE (docs/pods.md)"
        )
    mesh = create_mesh()
    check_divisible(config.data.batch_size, "--data.batch-size")
    check_divisible(config.microbatch or config.data.batch_size, "--microbatch")
    source = open_source(config.data.source, split=config.data.split, data_dir=config.data.data_dir)
    mixup_group = config.data.mixup_group if config.data.mixup else None
    check_batches(
        source,
        batch_size=config.data.batch_size,
        augmentation=config.data.augmentation,
        mixup_group=mixup_group,
        host_count=jax.process_count(),
    )
    length = configs.run_length(config, len(source))
    validation = open_validation(config.validation)
    if has_other_processes():
        check_same_on_all_processes(
            configs.of_all_processes(config) | {"the images of data.source": "\0".join(source.ids)}
        )

    # ---- Network, optimizer, state.
    model = build_model(**dataclasses.asdict(config.model))
    schedule = warmup_cosine(configs.learning_rate(config), warmup_steps=length.warmup, total_steps=length.total)
    optimizer = partial(
        lars,
        weight_decay=config.optimizer.weight_decay,
        momentum=config.optimizer.momentum,
        trust_coefficient=config.optimizer.trust_coefficient,
        eps=config.optimizer.eps,
        exclude_bias_and_norm=config.optimizer.exclude_bias_and_norm,
    )

    def step_of_run(state: TrainState, schedule: Partial, **batch: Any) -> tuple[TrainState, dict[str, Array]]:
        """With the schedule as an argument, runs of any length and learning rate share one compiled program."""
        return train_step(
            state,
            **batch,
            model=model,
            optimizer=optimizer(schedule),
            loss=config.loss,
            mixup_group=config.data.mixup_group,
            pieces=config.data.batch_size // config.microbatch if config.microbatch else 1,
            devices=mesh.size,
        )

    step_fn = jax.jit(step_of_run, donate_argnums=0, out_shardings=replicated(mesh))
    state = train_state.create(model, optimizer(schedule), config.seed, replicated(mesh))
    batches_of = partial(
        train_batches,
        source,
        image_size=config.data.image_size,
        augmentation=config.data.augmentation,
        min_crop_area=config.data.min_crop_area,
        seed=config.seed,
        workers=config.data.workers,
    )
    if config.init_from and not runs.has_step(workdir):
        views = batches_of(batch_size=min(config.data.batch_size, 128))  # the same in every process
        state = start_from(config.init_from, state, model, views, projection=config.init_projection)

    # ---- The checkpoint to resume from, and the log.
    def say(message: str) -> None:
        if is_first_process():
            print(message, file=sys.stderr)

    with checkpoint.open_checkpoints(workdir, keep=config.checkpoint.keep) as checkpoints:
        state = checkpoint.restore(checkpoints, state, config)
        start = int(state.step)
        if start >= length.total:
            say(f"{workdir} has its {length.total} steps already")
        elif start and (changed := configs.differences(checkpoint.latest_config(checkpoints), config)):
            say(f"{workdir} resumes after step {start} with other settings: {', '.join(changed)}")
        if start and config.init_from:
            say(f"{workdir} has checkpoints of its own: --init-from {config.init_from} is ignored")
        if start < length.total and is_first_process():
            write_text(workdir / "config.json", json.dumps(configs.to_dict(config), indent=2))
        log = TrainLog(
            workdir,
            saved=runs.saved_steps(checkpoints),
            total=length.total,
            batch_size=config.data.batch_size,
            schedule=schedule,
            warmup_steps=max(length.warmup, config.loss.entropy_warmup_steps),
        )
        dataset = batches_of(
            batch_size=config.data.batch_size,
            mixup_group=mixup_group,
            color_ops=config.data.color_ops,
            start_step=start,
            host_index=jax.process_index(),
            host_count=jax.process_count(),
        )
        batches, saving = numpy_batches(dataset), None

        # ---- The loop. The metrics of a step are read after the next one is dispatched, so that dispatch never waits.
        save_every = config.checkpoint.every_steps or length.epoch
        validate_every = config.validation.every_epochs * length.epoch
        profile = Profile(workdir / "profile", first=start + 4, steps=4 if config.profile and is_first_process() else 0)
        with log, profile, deferred_interrupt() as interruption:
            try:
                for step in range(start + 1, length.total + 1):
                    profile.at(step)
                    if saving:
                        checkpoint.check(saving)
                    asked = time.perf_counter()
                    batch = next(batches)
                    waited = time.perf_counter() - asked
                    log.unreadable(source, batch.pop("requested"), batch.pop("used"))
                    with log.compiling() if step == start + 1 else contextlib.nullcontext():
                        state, metrics = step_fn(state, schedule, **to_devices(batch, mesh))
                    log.write()
                    log.later(step, metrics, waited)

                    final = step == length.total
                    validating = validation if final or step % validate_every == 0 else None
                    stopping = interruption.stops_at(step) and not final
                    if final or validating or stopping or step % save_every == 0:
                        log.write()
                        validated = None
                        if validating:
                            validated = validate(validating, model, state.variables)
                            log.write_validation(step, validated)
                        saving = checkpoint.save(checkpoints, state, config, validated)
                        log.saved(step)
                    if stopping:
                        checkpoint.finish(checkpoints)
                        raise interruption.error(
                            f"saved after step {step} of {length.total}; rerun the same command to resume"
                        )
            except FloatingPointError:
                # The run must not resume from a checkpoint from which no finite loss was computed.
                checkpoint.remove_after(checkpoints, log.last_good)
                raise
    finish_together()
    return latest_metrics(workdir)
