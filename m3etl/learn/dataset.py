"""Chips one by one for everyone's DataLoader: a map-style data set of tensors with validity, by array name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from m3etl.campaign import Campaign, CampaignConfig
from m3etl.compute.normalize import Normalizer
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.store import ChipStore, open_store, read_stats
from m3etl.learn.view import View, ViewPlan
from m3etl.spec.modality import ArraySpec, Values, physical_of, valid_of

value_kinds = ("normalized", "physical", "stored")
Require = Sequence[str | Sequence[str]]


class ChipDataset(Dataset[dict[str, Any]]):
    """Samples {array: tensor (band, y, x) or (feature,), f"{array}_valid": bool of the same shape, "row": int,
    "chip_id": str}; safe in DataLoader workers, forked or spawned.

    values: "normalized" (float32, 0 where not observed; class indexes int64, -1), "physical" (float32 in the array's
    units, NaN; class codes int64, -1) or "stored" (the stored type and fill). split: None takes every sealed chip.
    arrays: names, all by default. require: names of arrays that must have been observed; a tuple inside means any of
    it. A missing array is all invalid, never replaced. Raises NothingSelectedError where no chip is left.
    """

    def __init__(
        self,
        campaign_dir: Path | str,
        *,
        arrays: Sequence[str] | None = None,
        split: str | None = "train",
        view: View | None = None,
        values: str = "normalized",
        require: Require = (),
        seed: int = 0,
    ) -> None:
        if values not in value_kinds:
            raise InputError(f"unknown kind of values: {values}", hint=f"Use one of {', '.join(value_kinds)}.")
        campaign = campaign_of(campaign_dir)
        self.store = open_store(campaign.store_path)
        self.specs = select_specs(self.store, arrays)
        self.rows = select_rows(self.store, split, require)
        self.values = values
        self.seed = seed
        self.epoch = 0
        self._plan = ViewPlan(view, self.specs, self.store.chip_m)
        self._normalizer = None
        if values == "normalized":
            self._normalizer = Normalizer.from_stats(read_stats(campaign.stats_path), list(self.specs.values()))

    def __len__(self) -> int:
        return int(self.rows.size)

    def set_epoch(self, epoch: int) -> None:
        """Crops and turns of another epoch; call before the workers start."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        placement = self._plan.draw(self.seed, self.epoch, np.array([row]))[0].tolist()
        stored = {name: self._read(name, row, placement) for name in self.specs}
        sample: dict[str, Any] = {}
        if self._normalizer is not None:
            sample |= self._normalizer({name: torch.from_numpy(values) for name, values in stored.items()})
        else:
            for name, spec in self.specs.items():
                valid = torch.from_numpy(valid_of(spec, stored[name]))
                sample[name], sample[f"{name}_valid"] = self._as_asked(spec, stored[name], valid), valid
        return {**sample, "row": row, "chip_id": str(self.store.chip_ids[row])}

    def _read(self, name: str, row: int, placement: Sequence[int]) -> npt.NDArray[Any]:
        stored = np.empty(self.store.chip_shape(name), dtype=self.specs[name].dtype)
        self.store.read_chip_into(name, row, stored)
        if name in self._plan.untouched:
            return stored
        shown = np.empty(self._plan.shapes[name], dtype=stored.dtype)
        self._plan.apply(name, stored, placement, shown)
        return shown

    def _as_asked(self, spec: ArraySpec, stored: npt.NDArray[Any], valid: Tensor) -> Tensor:
        if self.values == "stored":
            return torch.from_numpy(stored)
        if spec.values is Values.CLASSES:
            return torch.where(valid, torch.from_numpy(stored.astype(np.int64)), -1)
        return torch.from_numpy(physical_of(spec, stored).astype(np.float32))


def campaign_of(directory: Path | str) -> Campaign:
    """The paths of a campaign directory, or of a copy that has the data but no campaign.toml."""
    return Campaign(Path(directory), CampaignConfig())


def select_specs(store: ChipStore, arrays: Sequence[str] | None) -> dict[str, ArraySpec]:
    """The declarations of the named arrays (all with None); InputError lists the unknown names."""
    names = list(store.specs) if arrays is None else list(arrays)
    unknown = [name for name in names if name not in store.specs]
    if unknown or not names:
        raise InputError(
            f"the store {store.path} has no array {', '.join(unknown)}" if unknown else "no array was named",
            hint=f"It has: {', '.join(store.specs)}.",
        )
    return {name: store.specs[name] for name in names}


def select_rows(store: ChipStore, split: str | None, require: Require = ()) -> npt.NDArray[np.int64]:
    """Rows of the sealed chips of a split that have what is required, ascending; padding never.

    Raises NothingSelectedError that names split and requirement and says what there is.
    """
    sealed = store.chip_ids != ""
    chosen = sealed if split is None else sealed & (store.split == split)
    in_split = int(chosen.sum())
    for item in require:
        names = [item] if isinstance(item, str) else list(item)
        chosen = chosen & np.any([store.present(name) for name in select_specs(store, names)], axis=0)
    rows = np.flatnonzero(chosen).astype(np.int64)
    if rows.size == 0:
        splits, counts = np.unique(store.split[sealed], return_counts=True)
        found = ", ".join(f"{count} in {name}" for name, count in zip(splits, counts, strict=True)) or "none at all"
        wanted = "any split" if split is None else f"split {split}"
        asked = f" that have {' and '.join(_spelled(item) for item in require)}" if require else ""
        raise NothingSelectedError(
            f"no chips of {wanted}{asked}; sealed chips: {found}, {in_split} of them in {wanted}",
            hint="Sample and export more chips, or choose another split or fewer required arrays.",
        )
    return rows


def _spelled(item: str | Sequence[str]) -> str:
    return item if isinstance(item, str) else " or ".join(item)


def stack_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of samples: tensors stacked, rows as int64 (B,), chip_ids as a list."""
    batch: dict[str, Any] = {}
    for name, first in samples[0].items():
        found = [sample[name] for sample in samples]
        batch[name] = torch.stack(found) if isinstance(first, Tensor) else found
    batch["row"] = torch.tensor(batch["row"], dtype=torch.int64)
    return batch
