"""Pretraining with Lightning's Trainer: the module, its batches with masks, and the callback that validates, logs and
writes checkpoints. Everything that happens at a step follows from the seed and the step, so a run resumes exactly."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor, nn

from m3etl.compute.normalize import Normalizer
from m3etl.errors import DamagedError, InputError
from m3etl.learn.checkpoint import Checkpoint
from m3etl.learn.encoder import initialise
from m3etl.learn.losses import ArrayLoss, array_losses, build_weights
from m3etl.learn.masking import draw_visible, hidden_of
from m3etl.learn.mpmae import MaskedAutoencoder, input_levels
from m3etl.learn.settings import OptimConfig, PretrainConfig
from m3etl.spec.modality import ArraySpec

reference_batch = 256  # the learning rate of the paper's recipe is per 256 images


Losses = Mapping[str, Mapping[str, float]]  # split -> array -> loss


class BatchSource(Protocol):
    """What a loader of stored batches does: an epoch per iteration, `row` among the arrays of each batch; its state is
    that after the last batch it gave."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]: ...

    def __len__(self) -> int: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class MaskedBatches:
    """Batches of a loader, pass after pass, until `total` have been given; each with the patches that its images show.

    The masks of a batch follow from the seed, the number of the batch since the start of the run and the rows in it.
    `waited` is the time in seconds that was spent waiting for the loader.
    """

    def __init__(
        self, loader: BatchSource, *, patches: int, ratio: float, seed: int, given: int = 0, total: int
    ) -> None:
        self.loader = loader
        self.given = given
        self.total = total
        self.waited = 0.0
        self._mask = {"patches": patches, "ratio": ratio}
        self._seed = seed

    def __len__(self) -> int:
        return self.total - self.given

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while self.given < self.total:
            passed = self.given
            for batch in self._timed(iter(self.loader)):
                self.given += 1
                yield self._with_masks(batch, self.given - 1)
                if self.given >= self.total:
                    return
            if self.given == passed:
                raise InputError("the loader has no whole batch", hint="Use a smaller data.batch_size.")

    def _timed(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _with_masks(self, batch: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        rows = batch["row"].numpy()
        return {**batch, **masks_of(rows, seed=self._seed, step=number, **self._mask)}  # type: ignore[arg-type]


def masks_of(rows: Sequence[int] | Any, *, patches: int, ratio: float, seed: int, step: int) -> dict[str, Tensor]:
    """`visible` and `hidden`: the numbers of the patches of each image, (B, V) and (B, patches - V) int64."""
    visible = draw_visible(np.asarray(rows), patches=patches, ratio=ratio, seed=seed, step=step)
    return {"visible": torch.from_numpy(visible), "hidden": torch.from_numpy(hidden_of(visible, patches))}


class Pretraining(lightning.LightningModule):
    """MP-MAE, task weights and normalisation as Lightning trains them.

    steps: optimiser steps of the whole run; rate: the full learning rate; batches_done: counted since the start of the
    run; latest: detached losses of the last batch; resume_from: where the optimiser's state comes from.
    """

    def __init__(
        self,
        specs: Sequence[ArraySpec],
        targets: Sequence[ArraySpec],
        stats: Mapping[str, Any],
        config: PretrainConfig,
        *,
        steps: int,
        rate: float,
    ) -> None:
        super().__init__()
        self.specs = tuple(specs)
        self.config = config
        self.steps = steps
        self.rate = rate
        self.normalizer = Normalizer.from_stats(stats, specs)
        with torch.random.fork_rng(devices=[]):  # constructors draw weights that `initialise` replaces
            self.model = MaskedAutoencoder(specs, targets, config.model)
        self.weights = build_weights([spec.name for spec in targets], config.loss.weighting, config.loss.weights)
        initialise(self.model, torch.Generator().manual_seed(config.run.seed))
        nn.init.normal_(self.model.mask_token, std=0.02, generator=torch.Generator().manual_seed(config.run.seed + 1))
        self.batches_done = 0
        self.latest: dict[str, Tensor] = {}
        self.resume_from: Checkpoint | None = None
        self.batches: MaskedBatches | None = None
        self._open: Callable[[int, int], MaskedBatches] | None = None
        self._losses: Callable[..., dict[str, ArrayLoss]] = self._array_losses

    @property
    def step(self) -> int:
        """Optimiser steps done since the start of the run, those before a resume included."""
        return self.batches_done // self.config.trainer.accumulate

    def compile_losses(self) -> None:
        """Let torch.compile fuse model and losses."""
        self._losses = torch.compile(self._array_losses)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, ArrayLoss]:
        """The loss of each target on a stored batch with its masks."""
        arrays = self.normalizer(batch)
        visible, hidden = arrays.pop("visible"), arrays.pop("hidden")
        arrays.pop("row", None)
        return self._losses(arrays, visible, hidden)

    def read_from(self, open_batches: Callable[[int, int], MaskedBatches]) -> None:
        """Where the batches come from: called with rank and number of ranks once these are known."""
        self._open = open_batches

    def train_dataloader(self) -> MaskedBatches:
        """The batches of this rank."""
        if self._open is None:
            raise RuntimeError("read_from was not called")
        self.batches = self._open(self.trainer.global_rank, self.trainer.world_size)
        return self.batches

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The weighted loss of one batch."""
        losses = self.losses(batch)
        total = cast(Tensor, self.weights(losses))
        self.latest = {"loss": total.detach()} | {
            f"train/{name}": torch.where(loss.count > 0, loss.mean, torch.nan).detach() for name, loss in losses.items()
        }
        return total

    def on_train_start(self) -> None:
        """Put the optimiser where the checkpoint left it."""
        if self.resume_from is not None:
            self._load_optimizer(self.resume_from.optimizer_tensors())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the rate of this step, a function of the step alone; clip, which Lightning refuses for a fused AdamW."""
        if self.config.optim.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters(), self.config.optim.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = self.rate * rate_share(self.step, self.steps, self.config.optim.warmup_fraction)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; no weight decay on vectors (biases, norms, tokens, level embedding)."""
        optim = self.config.optim
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.named_parameters():
            groups[parameter.ndim > 1 and not name.endswith(".level")].append(parameter)
        return torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": optim.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=self.rate,
            betas=optim.betas,
            fused=True,
        )

    def trained_tensors(self) -> dict[str, Tensor]:
        """All parameters by name; the normalisation follows from the statistics and is no part of them."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def load_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Set all parameters; DamagedError where names or shapes differ."""
        own = dict(self.named_parameters())
        wrong = sorted(set(own) ^ set(tensors)) or [name for name in own if own[name].shape != tensors[name].shape]
        if wrong:
            raise DamagedError(f"the checkpoint does not fit the model: {', '.join(wrong[:5])}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """State of the optimiser as `parameter.key` -> tensor."""
        state = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False)).state
        return {
            f"{name}|{key}": value
            for name, parameter in self.named_parameters()
            for key, value in state.get(parameter, {}).items()
        }

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for text, value in tensors.items():
            name, _, key = text.rpartition("|")
            state.setdefault(order.index(name), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _array_losses(self, arrays: Mapping[str, Tensor], visible: Tensor, hidden: Tensor) -> dict[str, ArrayLoss]:
        predictions = self.model(arrays, visible, hidden)
        return array_losses(
            self.model.targets,
            predictions,
            arrays,
            hidden,
            patch_px=self.config.model.patch_px,
            patch_normalised=input_levels if self.config.loss.norm_pix else (),
        )


def rate_share(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the full learning rate at a step: linear warm-up from above 0, then cosine towards 0."""
    warmup = round(steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def full_rate(optim: OptimConfig, effective_batch: int) -> float:
    """The learning rate that is given, or base_lr x effective batch / 256."""
    return optim.lr if optim.lr is not None else optim.base_lr * effective_batch / reference_batch


@torch.no_grad()
def measure_losses(module: Pretraining, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """The loss of each target over all observed elements of these batches (of all ranks); without any, no entry."""
    names = [spec.name for spec in module.model.targets]
    sums = torch.zeros(2, len(names), dtype=torch.float64)
    trainer = module._trainer
    context = trainer.precision_plugin.forward_context() if trainer is not None else contextlib.nullcontext()
    module.eval()
    for batch in batches:
        on_device = {name: value.to(module.device) for name, value in batch.items()}
        with context:
            losses = module.losses(on_device)
        sums[0] += torch.stack([losses[name].total for name in names]).double().cpu()
        sums[1] += torch.stack([losses[name].count for name in names]).double().cpu()
    module.train()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shared = sums.to(module.device)
        torch.distributed.all_reduce(shared)
        sums = shared.cpu()
    return {name: float(sums[0, i] / sums[1, i]) for i, name in enumerate(names) if sums[1, i] > 0}


class Rhythm(lightning.Callback):
    """What happens between steps: reports, metrics, validation and checkpoints.

    open_split: by split (train, and val where there is one) a function of rank and number of ranks that gives its
    batches anew, with crops and masks that never change; both are measured before and after training, the last of them
    in between. save(module, losses_before, losses_now) writes a checkpoint and is called on the first rank only;
    report(1, **fields) is told of every step.
    """

    def __init__(
        self,
        *,
        open_split: Mapping[str, Callable[[int, int], Iterable[Mapping[str, Tensor]]]],
        save: Callable[[Pretraining, Losses, Losses], None],
        report: Callable[..., None],
        losses_before: Losses | None = None,
    ) -> None:
        self.open_split = open_split
        self.save = save
        self.report = report
        self.losses_before = losses_before
        self.losses_now: dict[str, Mapping[str, float]] = {}
        self.clock = TrainingClock()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module = cast(Pretraining, pl_module)
        if self.losses_before is None:
            self.losses_before = self._measure(trainer, module, list(self.open_split))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = cast(Pretraining, pl_module)
        options = module.config.trainer
        module.batches_done += 1
        waited = module.batches.waited if module.batches is not None else 0.0
        self.clock.count(len(batch["row"]) * trainer.world_size, waited)
        if module.batches_done % options.accumulate:
            return
        last = module.step >= module.steps
        fields = self._log(trainer, module) if last or module.step % options.log_every == 0 else {}
        if trainer.is_global_zero:
            self.report(1, **fields)
        self.clock.pause()
        if last or module.step % options.validate_every == 0:
            self.losses_now |= self._measure(trainer, module, list(self.open_split)[0 if last else -1 :])
        if last or module.step % options.checkpoint_every == 0:
            if trainer.is_global_zero:
                self.save(module, self.losses_before or {}, self.losses_now)
            trainer.strategy.barrier()
        self.clock.resume()

    def _log(self, trainer: lightning.Trainer, module: Pretraining) -> dict[str, Any]:
        values = {name: float(value) for name, value in module.latest.items()}
        if not math.isfinite(values["loss"]):
            raise InputError(
                f"the loss is {values['loss']} at step {module.step}: training has diverged",
                hint="Use a smaller optim.lr, or optim.clip_norm=1.0.",
            )
        figures = {name: value for name, value in values.items() if math.isfinite(value)}
        weights = getattr(module.weights, "log_variance", None)
        if weights is not None:
            names = cast(Sequence[str], module.weights.names)
            figures |= {f"log_variance/{name}": float(s) for name, s in zip(names, weights.detach(), strict=True)}
        figures["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        figures["images_per_second"] = round(self.clock.images_per_second, 2)
        figures["data_wait_fraction"] = round(self.clock.data_wait_fraction, 4)
        if trainer.is_global_zero:
            _logger_of(trainer).log_metrics(figures, module.step)
        speed = f"{figures['images_per_second']:.0f}"
        return {"loss": f"{values['loss']:.3f}", "images_per_second": speed, "step": module.step}

    def _measure(
        self, trainer: lightning.Trainer, module: Pretraining, splits: Sequence[str]
    ) -> dict[str, Mapping[str, float]]:
        found: dict[str, Mapping[str, float]] = {}
        for split in splits:
            found[split] = measure_losses(module, self.open_split[split](trainer.global_rank, trainer.world_size))
            if trainer.is_global_zero:
                figures = {f"measured/{split}/{name}": value for name, value in found[split].items()}
                _logger_of(trainer).log_metrics(figures, module.step)
        return found


class TrainingClock:
    """Speed of training without validation, checkpoints and the first batch (which may compile)."""

    def __init__(self) -> None:
        self.images = 0
        self._seconds = 0.0
        self._waited = 0.0
        self._waited_before: float | None = None
        self._since: float | None = None

    def count(self, images: int, waited: float) -> None:
        """A batch of so many images (of all ranks) is done; `waited`: seconds spent in the loader since the start."""
        if self._waited_before is None:
            self._waited_before = waited
            self.resume()
        else:
            self.images += images
            self._waited = waited - self._waited_before

    def pause(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
        self._since = None

    def resume(self) -> None:
        self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._seconds + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @property
    def images_per_second(self) -> float:
        """Images of all ranks per second."""
        return self.images / self.seconds if self.images else 0.0

    @property
    def data_wait_fraction(self) -> float:
        """Share of the time that was spent waiting for the loader."""
        return min(1.0, self._waited / self.seconds) if self.images else 0.0


class JsonLinesLogger(Logger):
    """Lightning's logger interface over metrics.jsonl: one JSON object a line, `step` and what was measured."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def keep_until(self, step: int) -> None:
        """Drop the lines after a step: what a killed run wrote after its last checkpoint, or another run before."""
        kept = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
                with contextlib.suppress(ValueError):
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
        self.path.write_text("".join(kept), encoding="utf-8")

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved configuration lies beside the metrics."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def fit(module: Pretraining, rhythm: Rhythm, logger: Logger, *, directory: Path) -> None:
    """Train until `module.steps`; `module.read_from` must have been called.

    What Lightning would print, warn about or write by itself is
    switched off. Raises KeyboardInterrupt when the user stops it; the last checkpoint stays.
    """
    options = module.config.trainer
    device = device_of(options.accelerator)
    if wants_compile(options.compile, device):
        module.compile_losses()
        if device == "cuda":
            module.normalizer.compile()  # one kernel an array; on the CPU it has kernels of its own
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=options.devices,
            strategy="ddp" if options.devices > 1 else "auto",
            precision=cast(Any, precision_of(options.precision, device)),
            max_steps=module.steps - module.step,
            max_epochs=1,
            accumulate_grad_batches=options.accumulate,
            callbacks=[rhythm],
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=directory,
        )
        before = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module)
        except SystemExit as error:
            if trainer.state.status is TrainerStatus.INTERRUPTED:
                signal.signal(signal.SIGINT, before)
                raise KeyboardInterrupt from error
            raise


def device_of(accelerator: str) -> str:
    """cuda or cpu; InputError where CUDA is asked for and not there."""
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator=cuda, but there is no CUDA device", hint="Use trainer.accelerator=cpu.")
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return accelerator


def precision_of(precision: str, device: str) -> str:
    """Lightning's name of the precision: bf16 where the device has it, else float32."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def wants_compile(choice: bool | None, device: str) -> bool:
    """Whether to use torch.compile: as chosen, else on CUDA."""
    return device == "cuda" if choice is None else choice


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _logger_of(trainer: lightning.Trainer) -> Logger:
    assert trainer.logger is not None
    return trainer.logger
