"""`m3etl pretrain`: trains an MP-MAE on the campaign's training chips, or goes on with a run that was interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3etl import __version__
from m3etl.campaign import Campaign, write_atomically
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.store import open_store, read_stats
from m3etl.spec.modality import ArraySpec
from m3etl.stages.summary import Progress, SilentProgress, Summary

if TYPE_CHECKING:
    from torch import Tensor

    from m3etl.learn.checkpoint import Checkpoint
    from m3etl.learn.settings import PretrainConfig
    from m3etl.learn.training import Losses, MaskedBatches, Pretraining, Rhythm


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a run reads. specs: inputs and targets; chips: usable chips of train, and of val where it has any."""

    campaign: Campaign
    specs: tuple[ArraySpec, ...]
    targets: tuple[ArraySpec, ...]
    stats: Mapping[str, Any]
    chips: Mapping[str, int]

    @property
    def dataset_id(self) -> str:
        return str(self.stats.get("dataset_id", ""))


def run_pretrain(campaign: Campaign, *, overrides: Sequence[str] = (), progress: Progress) -> Summary:
    """Train and return a summary: run directory, steps, speed, losses per array before and after (on training chips and
    on validation chips, with crops and masks that never change), pictures.

    overrides: Hydra's KEY=VALUE. A run is named by its configuration and data; the same command goes on where a killed
    one stopped, and does nothing when it is finished. Raises InputError for wrong options, NothingSelectedError without
    statistics or training chips with Sentinel-2, DamagedError for a damaged checkpoint.
    """
    started = time.monotonic()
    progress = progress if _rank() == 0 else SilentProgress()
    asked = _composed(overrides, progress)
    selection = select_chips(campaign, asked, progress)
    config = fitted_config(asked, selection, progress)
    run = campaign.runs_path / run_name(config, selection.dataset_id)
    with _only_run(run):
        checkpoint = _previous(run, config, selection)
        if checkpoint is not None and checkpoint.state["finished"]:
            progress.say(f"{run} is finished: nothing to train")
            return _summary(run, checkpoint.state, skipped=config.trainer.max_steps or 0, started=started)
        state = _train(run, config, selection, checkpoint, progress)
    return _summary(run, state, done=state["step"] - (checkpoint.step if checkpoint else 0), started=started)


def select_chips(campaign: Campaign, config: PretrainConfig, progress: Progress) -> Selection:
    """The arrays and chips of a run; without validation chips the training chips are measured, and that is said."""
    from m3etl.learn.dataset import select_rows
    from m3etl.learn.mpmae import InputBands, choose_targets, input_levels

    if not campaign.store_path.exists() or not campaign.stats_path.exists():
        missing = "chips" if not campaign.store_path.exists() else "statistics"
        raise NothingSelectedError(
            f"there are no {missing} in {campaign.root} to train on",
            hint="Run `m3etl export`, `m3etl tile` and `m3etl normalize` first.",
        )
    store = open_store(campaign.store_path)
    targets = choose_targets(tuple(store.specs.values()), names=config.data.arrays, leave_out=config.data.leave_out)
    specs = tuple(spec for spec in store.specs.values() if spec in targets or spec.name in input_levels)
    InputBands(specs)
    required = _required(specs)
    chips = {"train": len(select_rows(store, "train", required))}
    try:
        chips["val"] = len(select_rows(store, "val", required))
    except NothingSelectedError:
        progress.say("no validation chip has Sentinel-2: losses are measured on training chips only")
    stats = {name: value for name, value in read_stats(campaign.stats_path).items() if name in {s.name for s in specs}}
    stats["dataset_id"] = read_stats(campaign.stats_path).get("dataset_id", "")
    return Selection(
        campaign=campaign,
        specs=specs,
        targets=targets,
        stats=stats,
        chips=chips,
    )


def fitted_config(config: PretrainConfig, selection: Selection, progress: Progress) -> PretrainConfig:
    """The configuration with crop, batch, accumulation and steps as this data set allows; every clipping is said."""
    data, trainer, patch_px = config.data, config.trainer, config.model.patch_px
    crop_px = _crop(config, selection.campaign.config.sample.chip_px, progress)
    batch = min(data.batch_size, max(1, selection.chips["train"] // trainer.devices))
    if batch < data.batch_size:
        progress.say(
            f"data.batch_size clipped from {data.batch_size} to {batch}: {selection.chips['train']} training chips"
        )
    per_epoch = max(1, selection.chips["train"] // (batch * trainer.devices))
    accumulate = min(trainer.accumulate, per_epoch)
    if accumulate < trainer.accumulate:
        progress.say(
            f"trainer.accumulate clipped from {trainer.accumulate} to {accumulate}: {per_epoch} batches an epoch"
        )
    steps = trainer.max_steps or max(1, trainer.max_epochs * per_epoch // accumulate)
    if crop_px % patch_px or crop_px < 2 * patch_px:
        raise InputError(
            f"data.crop_px = {crop_px} must be a multiple of model.patch_px = {patch_px} and hold two patches a side"
        )
    return replace(
        config,
        data=replace(data, batch_size=batch, crop_px=crop_px),
        trainer=replace(trainer, accumulate=accumulate, max_steps=steps),
    )


def _crop(config: PretrainConfig, chip_px: int, progress: Progress) -> int:
    from m3etl.learn.settings import crop_share

    patch_px = config.model.patch_px
    if config.data.crop_px is None:
        return max(2, int(chip_px * crop_share) // patch_px) * patch_px
    if config.data.crop_px > chip_px:
        fitted = chip_px // patch_px * patch_px
        progress.say(f"data.crop_px clipped from {config.data.crop_px} to {fitted}: chips have {chip_px} pixels")
        return fitted
    return config.data.crop_px


def run_name(config: PretrainConfig, dataset_id: str) -> str:
    """run.name, or the size and a hash of configuration and data: another configuration is another run."""
    digest = hashlib.sha256(f"{config.digest()} {dataset_id}".encode()).hexdigest()
    return config.run.name or f"{config.model.size}-{digest[:8]}"


def _composed(overrides: Sequence[str], progress: Progress) -> PretrainConfig:
    from m3etl.learn.settings import compose_config, preset_of

    needs_training_extra()
    import torch

    cuda = torch.cuda.is_available()
    preset = preset_of(overrides) or ("paper" if cuda else "quick")
    config = compose_config(overrides, preset=preset)
    reason = "as asked" if preset_of(overrides) else "a CUDA device is there" if cuda else "there is no CUDA device"
    progress.say(f"preset {preset} ({reason})")
    return config


def needs_training_extra() -> None:
    """MissingExtraError with the pip command where a package that training needs is not installed."""
    from importlib.util import find_spec

    from m3etl.errors import MissingExtraError

    missing = [name for name in ("torch", "lightning", "hydra", "safetensors") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"training needs {', '.join(missing)}", hint="Install it with `pip install 'm3etl[train]'`."
        )


def _train(
    run: Path, config: PretrainConfig, selection: Selection, checkpoint: Checkpoint | None, progress: Progress
) -> Mapping[str, Any]:
    import torch

    from m3etl.learn.checkpoint import read_checkpoint
    from m3etl.learn.training import JsonLinesLogger, Pretraining, Rhythm, fit, full_rate

    if config.trainer.cpu_threads is not None:
        torch.set_num_threads(config.trainer.cpu_threads)
    effective = config.data.batch_size * config.trainer.devices * config.trainer.accumulate
    steps = config.trainer.max_steps or 1
    module = Pretraining(
        selection.specs,
        selection.targets,
        selection.stats,
        config,
        steps=steps,
        rate=full_rate(config.optim, effective),
    )
    if checkpoint is not None:
        progress.say(f"going on with {run} at step {checkpoint.step} of {steps}")
        module.load_trained(checkpoint.model_tensors())
        module.batches_done = int(checkpoint.state["batches"])
        module.resume_from = checkpoint
    module.read_from(lambda rank, ranks: _training_batches(config, selection, checkpoint, steps, rank, ranks))
    states: list[Mapping[str, Any]] = []
    rhythm = Rhythm(
        open_split={split: partial(fixed_batches, config, selection, split) for split in selection.chips},
        save=lambda *measured: states.append(_save(run, selection, rhythm, *measured)),
        report=progress.advance,
        losses_before=checkpoint.state["losses_before"] if checkpoint else None,
    )
    logger = JsonLinesLogger(run / "metrics.jsonl")
    if _rank() == 0:
        logger.keep_until(checkpoint.step if checkpoint else -1)
    progress.start("pretrain", steps - module.step)
    fit(module, rhythm, logger, directory=run)
    progress.finish()
    if not states:  # only the first rank writes checkpoints
        return read_checkpoint(run).state
    if config.run.pictures:
        _draw(run, config, selection, module)
    return states[-1]


def _training_batches(
    config: PretrainConfig, selection: Selection, checkpoint: Checkpoint | None, steps: int, rank: int, ranks: int
) -> MaskedBatches:
    from m3etl.learn.loader import ChipLoader
    from m3etl.learn.training import MaskedBatches
    from m3etl.learn.view import View

    crop_px = config.data.crop_px or 0
    loader = ChipLoader(
        selection.campaign.root,
        arrays=[spec.name for spec in selection.specs],
        split="train",
        batch_size=config.data.batch_size,
        view=View(crop_px=crop_px, random_crop=True, flips=config.data.flips, upsample=True),
        shuffle="window",
        seed=config.run.seed,
        threads=config.data.threads,
        rank=rank,
        world_size=ranks,
        drop_last=True,
        require=_required(selection.specs),
        flat_periods=True,
    )
    if checkpoint is not None:
        loader.load_state_dict(checkpoint.state["loader"])
    return MaskedBatches(
        loader,
        patches=(crop_px // config.model.patch_px) ** 2,
        ratio=config.mask.ratio,
        seed=config.run.seed,
        given=int(checkpoint.state["batches"]) if checkpoint else 0,
        total=steps * config.trainer.accumulate,
    )


def fixed_batches(
    config: PretrainConfig, selection: Selection, split: str, rank: int = 0, ranks: int = 1
) -> Iterator[dict[str, Tensor]]:
    """Stored batches of at most `validate_chips` chips of a split: centre crops, and masks that never change."""
    from m3etl.learn.loader import ChipLoader
    from m3etl.learn.training import masks_of
    from m3etl.learn.view import View

    crop_px = config.data.crop_px or 0
    most = min(config.trainer.validate_chips, selection.chips[split])
    batch_size = max(1, min(config.data.batch_size, most // ranks or 1))
    loader = ChipLoader(
        selection.campaign.root,
        arrays=[spec.name for spec in selection.specs],
        split=split,
        batch_size=batch_size,
        view=View(crop_px=crop_px, upsample=True),
        shuffle="none",
        seed=config.run.seed,
        threads=config.data.threads,
        rank=rank,
        world_size=ranks,
        require=_required(selection.specs),
        flat_periods=True,
    )
    given = 0
    for batch in loader:
        masks = masks_of(
            batch["row"].numpy(),
            patches=(crop_px // config.model.patch_px) ** 2,
            ratio=config.mask.ratio,
            seed=config.run.seed + 1,
            step=0,
        )
        yield {**batch, **masks}
        given += len(batch["row"]) * ranks
        if given >= most:
            return


def _required(specs: Sequence[ArraySpec]) -> tuple[tuple[str, ...], ...]:
    from m3etl.learn.mpmae import input_levels

    return (tuple(spec.name for spec in specs if spec.name in input_levels),)


def _save(
    run: Path,
    selection: Selection,
    rhythm: Rhythm,
    module: Pretraining,
    losses_before: Losses,
    losses_now: Losses,
) -> Mapping[str, Any]:
    import torch

    from m3etl.learn.checkpoint import declarations, write_checkpoint

    assert module.batches is not None
    state = {
        "m3etl_version": __version__,
        "torch_version": torch.__version__,
        "dataset_id": selection.dataset_id,
        "step": module.step,
        "steps": module.steps,
        "batches": module.batches_done,
        "finished": module.step >= module.steps,
        "loader": module.batches.loader.state_dict(),
        "specs": declarations(selection.specs),
        "targets": [spec.name for spec in selection.targets],
        "stats": selection.stats,
        "losses_before": losses_before,
        "losses_now": losses_now,
        "images_per_second": round(rhythm.clock.images_per_second, 2),
        "data_wait_fraction": round(rhythm.clock.data_wait_fraction, 4),
    }
    write_checkpoint(
        run / "checkpoints",
        model=module.trained_tensors(),
        optimizer=module.optimizer_tensors(),
        state=state,
        config=module.config,
    )
    return state


def _draw(run: Path, config: PretrainConfig, selection: Selection, module: Pretraining) -> None:
    import torch

    from m3etl.learn.pictures import write_reconstructions

    split = list(selection.chips)[-1]
    batches = itertools.islice(fixed_batches(config, selection, split), -(-32 // config.data.batch_size))
    parts = [{name: value.to(module.device, copy=True) for name, value in batch.items()} for batch in batches]
    batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    chip_ids = open_store(selection.campaign.store_path).chip_ids[batch["row"].cpu().numpy()]
    write_reconstructions(run / "pictures", module, batch, captions=chip_ids.tolist(), chips=config.run.pictures)


def _previous(run: Path, config: PretrainConfig, selection: Selection) -> Checkpoint | None:
    """The checkpoint to go on from; InputError if the run of this name was of another configuration or data set."""
    from m3etl.learn.checkpoint import find_checkpoint
    from m3etl.learn.settings import config_yaml

    checkpoint = find_checkpoint(run)
    if checkpoint is None:
        write_atomically(run / "config.yaml", config_yaml(config).encode())
        return None
    if checkpoint.state["dataset_id"] != selection.dataset_id:
        raise InputError(
            f"the run {run.name} was trained on another state of the data set",
            hint="Use another run.name for the new data.",
        )
    if checkpoint.config.digest() != config.digest():
        raise InputError(
            f"the run {run.name} was started with other options: {'; '.join(_differences(checkpoint.config, config))}",
            hint="Use another run.name, or the options it was started with.",
        )
    return checkpoint


def _differences(before: PretrainConfig, now: PretrainConfig) -> list[str]:
    from dataclasses import asdict

    old, new = asdict(before), asdict(now)
    return [
        f"{section}.{key} was {old[section][key]}, now {new[section][key]}"
        for section in old
        for key in old[section]
        if old[section][key] != new[section][key] and section != "run"
    ]


@contextlib.contextmanager
def _only_run(run: Path) -> Iterator[None]:
    """Make the run's directory and keep a second training out of it; the other ranks of this training may enter."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = (run / ".lock").open("a+b")
    except OSError as error:
        raise InputError(f"cannot write in {run}: {error.strerror}", hint="Is the directory read-only?") from error
    with handle:
        if _rank() == 0:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"another process trains {run}", hint="Wait for it to end, or stop it.") from error
        yield


def _rounded(losses: Mapping[str, Mapping[str, float]], split: str) -> dict[str, float]:
    return {name: round(value, 4) for name, value in losses.get(split, {}).items()}


def _rank() -> int:
    """The number of this process among those of a training that uses several devices (torchrun, SLURM or Lightning)."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), "0"))


def _summary(run: Path, state: Mapping[str, Any], *, done: int = 0, skipped: int = 0, started: float) -> Summary:
    before, after = state.get("losses_before", {}), state.get("losses_now", {})
    facts = {
        "run": str(run),
        "steps": state.get("step", 0),
        "arrays": len(state.get("targets", ())),
        "images_per_second": state.get("images_per_second", 0.0),
        "data_wait_fraction": state.get("data_wait_fraction", 0.0),
        "loss_before": _rounded(before, "train"),
        "loss_after": _rounded(after, "train"),
        "val_loss_before": _rounded(before, "val"),
        "val_loss_after": _rounded(after, "val"),
        "pictures": [str(path) for path in sorted((run / "pictures").glob("*.png"))],
    }
    return Summary(stage="pretrain", done=done, skipped=skipped, seconds=time.monotonic() - started, facts=facts)
