"""The options of `m3etl pretrain`: composed by Hydra from learn/conf and overrides, checked by frozen dataclasses."""

from __future__ import annotations

import hashlib
import json
import logging
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from m3etl.errors import InputError
from m3etl.learn.encoder import encoder_sizes
from m3etl.learn.mpmae import ModelConfig
from m3etl.spec.spelling import did_you_mean

conf_path = Path(__file__).with_name("conf")
presets = ("quick", "paper")
crop_share = 7 / 8  # MMEarth: 112 of 128 pixels, 56 of 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """name: directory under runs/, "" for one made from the configuration; pictures: chips in the pictures."""

    name: str = ""
    seed: int = 0
    pictures: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """arrays: pretext targets, () for all; leave_out: arrays or label families that must not be targets."""

    arrays: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    crop_px: int | None = None
    flips: bool = False
    batch_size: int = 512
    threads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskConfig:
    """ratio: share of the patches that are hidden."""

    ratio: float = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """weighting: uncertainty or fixed; norm_pix: Sentinel-2 targets normalised per patch."""

    weighting: str = "uncertainty"
    weights: Mapping[str, float] = field(default_factory=dict)
    norm_pix: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW; lr None means base_lr x effective batch / 256; warmup_fraction of all steps; clip_norm 0 means none."""

    lr: float | None = None
    base_lr: float = 1.5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    warmup_fraction: float = 0.2
    clip_norm: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """Length, device and rhythm of a run; None takes what suits the device (see conf/pretrain.yaml)."""

    max_steps: int | None = None
    max_epochs: int = 200
    accelerator: str = "auto"
    devices: int = 1
    precision: str = "auto"
    compile: bool | None = None
    accumulate: int = 1
    cpu_threads: int | None = None
    checkpoint_every: int = 500
    validate_every: int = 500
    validate_chips: int = 2048
    log_every: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """All options of one pretraining run."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def digest(self) -> str:
        """sha256 over what decides the result: not over names, pictures, threads of the loader and rhythms."""
        decisive = asdict(
            replace(
                self,
                run=RunConfig(seed=self.run.seed),
                data=replace(self.data, threads=0),
                trainer=TrainerConfig(
                    max_steps=self.trainer.max_steps,
                    max_epochs=self.trainer.max_epochs,
                    precision=self.trainer.precision,
                    accumulate=self.trainer.accumulate,
                ),
            )
        )
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def compose_config(overrides: Sequence[str] = (), *, preset: str = "quick") -> PretrainConfig:
    """The configuration of this preset with KEY=VALUE overrides (Hydra's syntax; `preset=NAME` among them wins).

    InputError names every unknown key, with the nearest known one, and every value of the wrong type or range.
    """
    _check_overrides(overrides)
    chosen = list(overrides)
    if preset_of(overrides) is None:
        chosen.insert(0, f"preset={preset}")
    return checked_config(_compose(chosen))


def preset_of(overrides: Sequence[str]) -> str | None:
    """The preset that the overrides name, if they do."""
    names = [text.partition("=")[2] for text in overrides if text.partition("=")[0] == "preset"]
    return names[-1] if names else None


def option_names(config: PretrainConfig | None = None) -> tuple[str, ...]:
    """All keys, e.g. `model.size`."""
    sections = asdict(config or PretrainConfig())
    return tuple(f"{section}.{key}" for section, options in sections.items() for key in options)


def config_yaml(config: PretrainConfig) -> str:
    """The resolved configuration as YAML; `read_config` is its inverse."""
    return yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False)


def read_config(text: str) -> PretrainConfig:
    """A configuration from YAML as `config_yaml` writes it."""
    return checked_config(yaml.safe_load(text))


def checked_config(document: Any) -> PretrainConfig:
    """The dataclasses of a nested mapping; InputError names every unknown key, wrong type and value out of range."""
    problems: list[str] = []
    config = _filled(PretrainConfig, document, "", problems)
    if not problems:
        problems.extend(_out_of_range(config))
    if problems:
        raise InputError("wrong options: " + "; ".join(problems), hint=_options_hint())
    return config  # type: ignore[no-any-return]


def _compose(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    logging.getLogger("hydra").setLevel(logging.ERROR)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(conf_path), version_base="1.3"):
            # "++": a table of free keys can only be added to
            texts = [f"++{text}" if text.startswith("loss.weights") else text for text in overrides]
            return OmegaConf.to_container(compose("pretrain", overrides=texts), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot use the options {' '.join(overrides)}: {reason}", hint=_options_hint()) from error
    finally:
        GlobalHydra.instance().hydra = before


def _check_overrides(overrides: Sequence[str]) -> None:
    known = option_names()
    problems = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            problems.append(f"{text!r} is not KEY=VALUE")
        elif key == "preset" and value not in presets:
            problems.append(f"unknown preset {value!r}{did_you_mean(value, presets)} (known: {', '.join(presets)})")
        elif key != "preset" and key not in known and not key.startswith("loss.weights."):
            problems.append(f"unknown option {key}{did_you_mean(key, known)}")
    if problems:
        raise InputError("; ".join(problems), hint=_options_hint())


def _options_hint() -> str:
    return f"Options: preset ({' or '.join(presets)}), {', '.join(option_names())}."


def _out_of_range(config: PretrainConfig) -> list[str]:
    optim, trainer, data = config.optim, config.trainer, config.data
    checks = {
        f"model.size = {config.model.size}{did_you_mean(config.model.size, encoder_sizes)} "
        f"(known: {', '.join(encoder_sizes)})": config.model.size in encoder_sizes,
        f"model.patch_px = {config.model.patch_px} must be 8, 16 or 32": config.model.patch_px in (8, 16, 32),
        "model.decoder_width and model.decoder_depth must be at least 1": min(
            config.model.decoder_width, config.model.decoder_depth
        )
        >= 1,
        f"data.crop_px = {data.crop_px} must hold at least two patches": data.crop_px is None
        or data.crop_px >= 2 * config.model.patch_px,
        "data.batch_size, data.threads must be at least 1": min(data.batch_size, data.threads) >= 1,
        f"mask.ratio = {config.mask.ratio} must lie between 0 and 1": 0 < config.mask.ratio < 1,
        f"loss.weighting = {config.loss.weighting} must be uncertainty or fixed": config.loss.weighting
        in ("uncertainty", "fixed"),
        "loss.weights needs loss.weighting=fixed": not config.loss.weights or config.loss.weighting == "fixed",
        "optim.lr and optim.base_lr must be positive": optim.base_lr > 0 and (optim.lr is None or optim.lr > 0),
        "optim.betas must lie in [0, 1)": all(0 <= beta < 1 for beta in optim.betas),
        "optim.weight_decay and optim.clip_norm must not be negative": min(optim.weight_decay, optim.clip_norm) >= 0,
        f"optim.warmup_fraction = {optim.warmup_fraction} must lie in [0, 1)": 0 <= optim.warmup_fraction < 1,
        f"trainer.max_steps = {trainer.max_steps} must be at least 1": (trainer.max_steps or 1) >= 1
        and trainer.max_steps != 0,
        "trainer: max_epochs, devices, accumulate, checkpoint_every, validate_every, validate_chips, log_every must be "
        "at least 1": min(
            trainer.max_epochs,
            trainer.devices,
            trainer.accumulate,
            trainer.checkpoint_every,
            trainer.validate_every,
            trainer.validate_chips,
            trainer.log_every,
        )
        >= 1,
        f"trainer.accelerator = {trainer.accelerator} must be auto, cpu or cuda": trainer.accelerator
        in ("auto", "cpu", "cuda"),
        f"trainer.precision = {trainer.precision} must be auto, bf16-mixed or 32-true": trainer.precision
        in ("auto", "bf16-mixed", "32-true"),
        "trainer.cpu_threads must be at least 1": (trainer.cpu_threads or 1) >= 1 and trainer.cpu_threads != 0,
        "run.pictures must not be negative": config.run.pictures >= 0,
        f"run.name = {config.run.name!r} must be a plain directory name": "/" not in config.run.name
        and config.run.name not in (".", ".."),
    }
    return [problem for problem, fine in checks.items() if not fine]


def _filled(kind: Any, document: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(document, Mapping):
        problems.append(f"{where or 'the configuration'} must be a table")
        return kind()
    hints = get_type_hints(kind)
    names = {item.name for item in fields(kind)}
    problems.extend(f"unknown option {where}{name}" for name in document if name not in names)
    values = {}
    for name in names & set(document):
        if is_dataclass(hints[name]):
            values[name] = _filled(hints[name], document[name], f"{where}{name}.", problems)
            continue
        try:
            values[name] = _converted(hints[name], document[name])
        except (TypeError, ValueError):
            problems.append(f"{where}{name} = {document[name]!r} is not of type {_type_name(hints[name])}")
    return kind(**values)


def _converted(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _converted(get_args(hint)[0], value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return tuple(_converted(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin is not None:
        return {str(key): _converted(get_args(hint)[1], item) for key, item in dict(value).items()}
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError
    return value


def _type_name(hint: Any) -> str:
    return str(hint) if get_origin(hint) else str(getattr(hint, "__name__", hint))
