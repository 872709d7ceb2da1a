"""Checkpoints of pretraining: a directory with model.safetensors, optimizer.safetensors, state.json and config.yaml,
written whole or not at all; and `load_encoder`, which gives a user everything needed to apply an encoder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from m3etl.campaign import write_atomically
from m3etl.compute.normalize import Normalizer
from m3etl.errors import DamagedError, InputError, NothingSelectedError
from m3etl.io.layout import declaration_of, spec_of
from m3etl.learn.encoder import ConvNeXtV2, build_encoder
from m3etl.learn.mpmae import InputBands, input_bands, input_levels
from m3etl.learn.settings import PretrainConfig, config_yaml, read_config
from m3etl.spec.modality import ArraySpec

checkpoint_version = 1
kept_checkpoints = 2
highest_reflectance = 8.0  # stored reflectance ends at 6.55; digital numbers are hundreds to thousands


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint directory. state: step, batches, finished, loader position, specs, statistics, losses ..."""

    path: Path
    state: Mapping[str, Any]
    config: PretrainConfig

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the arrays that the model was trained to predict."""
        return tuple(self.state["targets"])

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """Declarations of all arrays that were read, inputs and targets."""
        return tuple(spec_of(text) for text in self.state["specs"])

    @property
    def stats(self) -> Mapping[str, Any]:
        """Statistics of the arrays that were read, as in stats.json."""
        return self.state["stats"]  # type: ignore[no-any-return]

    @property
    def target_families(self) -> frozenset[str]:
        """Label families among the targets: an encoder must not be probed on these."""
        return frozenset(spec.label_family for spec in self.specs if spec.name in self.targets and spec.label_family)

    def model_tensors(self) -> dict[str, Tensor]:
        """Parameters of model and task weights by name."""
        return self._tensors("model.safetensors")

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """State of the optimiser by parameter name."""
        return self._tensors("optimizer.safetensors")

    def _tensors(self, name: str) -> dict[str, Tensor]:
        path = self.path / name
        try:
            if _sha256(path) != self.state["sha256"][name]:
                raise DamagedError(f"{path} is not what was written (checksum)", hint=_damage_hint(self.path))
            return load_file(path)
        except (OSError, KeyError, SafetensorError) as error:
            raise DamagedError(f"cannot read {path}: {error}", hint=_damage_hint(self.path)) from error


def write_checkpoint(
    folder: Path,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    config: PretrainConfig,
) -> Path:
    """Write `folder`/step-N atomically, then point `folder`/latest to it and remove all but the last two."""
    final = folder / f"step-{int(state['step']):08d}"
    temporary = folder / f".{final.name}.tmp-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, tensors in (("model.safetensors", model), ("optimizer.safetensors", optimizer)):
            save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, temporary / name)
        digests = {name: _sha256(temporary / name) for name in ("model.safetensors", "optimizer.safetensors")}
        document = {"format_version": checkpoint_version, **state, "sha256": digests}
        (temporary / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
        (temporary / "state.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"cannot write the checkpoint {final}: {error.strerror or error}",
            hint="Free some space or make the directory writable; the run continues from the checkpoint before.",
        ) from error
    write_atomically(folder / "latest", f"{final.name}\n".encode())
    for old in sorted(folder.glob("step-*"))[:-kept_checkpoints]:
        shutil.rmtree(old, ignore_errors=True)
    for stale in folder.glob(".step-*.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    return final


def read_checkpoint(path: Path | str) -> Checkpoint:
    """The checkpoint in `path`: its own directory, a directory of checkpoints with `latest`, or a run.

    NothingSelectedError where there is none, DamagedError where it is unreadable or of another version.
    """
    folder = _checkpoint_folder(Path(path))
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DamagedError(f"cannot read the checkpoint {folder}: {error}", hint=_damage_hint(folder)) from error
    if state.get("format_version") != checkpoint_version:
        raise DamagedError(
            f"{folder} has format version {state.get('format_version')!r}; this m3etl reads {checkpoint_version}",
            hint=f"It was written by m3etl {state.get('m3etl_version', 'of unknown version')}: use that version.",
        )
    return Checkpoint(path=folder, state=state, config=read_config(text))


def find_checkpoint(run: Path) -> Checkpoint | None:
    """The latest checkpoint of a run, None where it has none yet."""
    return read_checkpoint(run) if (run / "checkpoints" / "latest").is_file() else None


def find_runs(runs: Path) -> list[Checkpoint]:
    """The latest checkpoints of all runs in a directory of runs, those with most steps first."""
    if not runs.is_dir():
        return []
    found = [checkpoint for run in sorted(runs.iterdir()) if (checkpoint := find_checkpoint(run)) is not None]
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


class PretrainedEncoder(nn.Module):
    """A pretrained encoder with its normalisation: stored chips or reflectances in, features out.

    bands: names of the input bands in the encoder's order; levels: names of the input arrays it tells apart.
    """

    bands: tuple[str, ...] = input_bands
    levels: tuple[str, ...] = input_levels

    def __init__(self, encoder: ConvNeXtV2, normalizer: Normalizer, specs: Sequence[ArraySpec]) -> None:
        super().__init__()
        self.encoder = encoder
        self.normalizer = normalizer
        self.specs = {spec.name: spec for spec in specs}
        self.input_bands = InputBands(specs)

    @property
    def width(self) -> int:
        """Number of features."""
        return self.encoder.width

    @property
    def patch_px(self) -> int:
        """Pixels a side of the picture that one position of the feature map stands for."""
        return self.encoder.patch_px

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features (B, width) of stored chips: {array: (B, band, y, x)} with at least one of `levels`."""
        return self.normalised({name: batch[name] for name in self.specs})

    def normalised(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features (B, width) of chips as stored in the data set, normalised here; sides are cut to whole patches."""
        picture = self.input_bands(self.normalizer(batch))
        height, width = (side // self.patch_px * self.patch_px for side in picture.x.shape[2:])
        return self.encoder(  # type: ignore[no-any-return]
            picture.x[..., :height, :width], level=picture.level, observed=picture.observed[..., :height, :width]
        )

    def from_reflectance(self, reflectance: Tensor, bands: Sequence[str], *, level: str = "sentinel2_l2a") -> Tensor:
        """Features (B, width) of reflectances (B, band, H, W): digital numbers / 10000, NaN where unobserved.

        bands: their names in order (B1 ... B12, B8A); bands that the encoder knows and that are not among them count
        as unobserved, others are ignored. Raises InputError for digital numbers, an unknown level or no known band.
        """
        if level not in self.specs:
            raise InputError(f"this encoder was not trained on {level}", hint=f"It knows {', '.join(self.specs)}.")
        known = [band for band in bands if band in self.bands]
        if not known or len(bands) != reflectance.shape[1]:
            raise InputError(
                f"{reflectance.shape[1]} bands were given with the names {', '.join(bands)}",
                hint=f"Name every band; the encoder knows {', '.join(self.bands)}.",
            )
        highest = float(reflectance.nan_to_num(0.0).max())
        if highest > highest_reflectance:
            raise InputError(
                f"the largest reflectance is {highest:g}: these look like digital numbers",
                hint="Give reflectances: digital numbers / 10000 (and - 0.1 for baseline 04.00 and later).",
            )
        spec = self.specs[level]
        batch, _, height, width = reflectance.shape
        stored = torch.full((batch, len(spec.bands), height, width), spec.fill or 0, dtype=torch.int32)
        stored = stored.to(reflectance.device)
        for number, band in enumerate(bands):
            if band in known:
                values = ((reflectance[:, number] - spec.offset) / spec.scale).round().clamp(min=0)
                stored[:, spec.bands.index(band)] = torch.where(values.isnan(), spec.fill or 0, values).int()
        absent = {
            name: torch.full((batch, len(other.bands), height, width), other.fill or 0, device=reflectance.device)
            for name, other in self.specs.items()
        }
        return self.normalised({**absent, level: stored})


def load_encoder(path: Path | str) -> PretrainedEncoder:
    """The encoder of a checkpoint (or of the latest one of a run), ready for use: weights, normalisation, band names.

    encoder = load_encoder("my-campaign/runs/atto-1a2b3c4d")
    features = encoder(batch)                                   # stored chips of a ChipLoader
    features = encoder.from_reflectance(x, bands=["B2", "B3"])  # (B, 2, H, W) reflectances from anywhere
    """
    checkpoint = read_checkpoint(path)
    inputs = input_specs(checkpoint.specs)
    encoder = build_encoder(
        checkpoint.config.model.size,
        bands=len(input_bands),
        patch_px=checkpoint.config.model.patch_px,
        levels=len(input_levels),
    )
    prefix = "model.encoder."
    weights = {
        name.removeprefix(prefix): value
        for name, value in checkpoint.model_tensors().items()
        if name.startswith(prefix)
    }
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise DamagedError(f"{checkpoint.path} does not fit its own configuration: {error}") from error
    normalizer = Normalizer.from_stats(checkpoint.stats, inputs)
    return PretrainedEncoder(encoder, normalizer, inputs).eval()


def input_specs(specs: Sequence[ArraySpec]) -> tuple[ArraySpec, ...]:
    """Those of the arrays that feed the encoder."""
    return tuple(spec for spec in specs if spec.name in input_levels)


def declarations(specs: Sequence[ArraySpec]) -> list[str]:
    """The declarations as they are kept in state.json."""
    return [declaration_of(spec) for spec in specs]


def _checkpoint_folder(path: Path) -> Path:
    for folder in (path, path / "checkpoints"):
        if (folder / "latest").is_file():
            return folder / (folder / "latest").read_text(encoding="utf-8").strip()
    if (path / "state.json").is_file():
        return path
    raise NothingSelectedError(
        f"there is no checkpoint in {path}",
        hint="Train one with `m3etl pretrain`, or name a run or checkpoint directory.",
    )


def _damage_hint(path: Path) -> str:
    return f"Remove {path} (and {path.parent / 'latest'}) and run `m3etl pretrain` again."


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
