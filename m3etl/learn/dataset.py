"""Chips one by one for everyone's DataLoader: a map-style data set of tensors with validity, by array name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from m3etl.compute.normalize import Normalizer
from m3etl.errors import InputError
from m3etl.io.store import read_stats
from m3etl.learn.selection import Place, Require, locate, open_data, select_rows, select_specs
from m3etl.learn.view import View, ViewPlan
from m3etl.spec.modality import ArraySpec, Values, physical_of, valid_of

__all__ = ["ChipDataset", "Require", "select_rows", "select_specs", "stack_samples", "value_kinds"]

value_kinds = ("normalized", "physical", "stored")


class ChipDataset(Dataset[dict[str, Any]]):
    """Samples {array: tensor (band, y, x), (period, band, y, x) or (feature,), f"{array}_valid": bool of the same
    shape, "row": int, "chip_id": str}; safe in DataLoader workers, forked or spawned.

    values: "normalized" (float32, 0 where not observed; class indexes int64, -1), "physical" (float32 in the array's
    units, NaN; class codes int64, -1) or "stored" (the stored type and fill). split: None takes every sealed chip.
    arrays: names, all by default. require: names of arrays that must have been observed; a tuple inside means any of
    it. A missing array is all invalid, never replaced. Raises NothingSelectedError where no chip is left.
    """

    def __init__(
        self,
        place: Place,
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
        self.store = open_data(place)
        wanted = select_specs(self.store, arrays)
        self.rows = select_rows(self.store, split, require)
        self.values = values
        self.seed = seed
        self.epoch = 0
        self._plan = ViewPlan(view, wanted, self.store.chip_m)
        self.specs: Mapping[str, ArraySpec] = self._plan.shown
        self._normalizer = None
        if values == "normalized":
            self._normalizer = Normalizer.from_stats(read_stats(locate(place).stats), list(self.specs.values()))

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
        shown = stored
        if name not in self._plan.untouched:
            shown = np.empty(self._plan.shapes[name], dtype=stored.dtype)
            self._plan.apply(name, stored, placement, shown)
        return shown.reshape(self.specs[name].with_periods(shown.shape))

    def _as_asked(self, spec: ArraySpec, stored: npt.NDArray[Any], valid: Tensor) -> Tensor:
        if self.values == "stored":
            return torch.from_numpy(stored)
        if spec.values is Values.CLASSES:
            return torch.where(valid, torch.from_numpy(stored.astype(np.int64)), -1)
        return torch.from_numpy(physical_of(spec, stored).astype(np.float32))


def stack_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of samples: tensors stacked, rows as int64 (B,), chip_ids as a list."""
    batch: dict[str, Any] = {}
    for name, first in samples[0].items():
        found = [sample[name] for sample in samples]
        batch[name] = torch.stack(found) if isinstance(first, Tensor) else found
    batch["row"] = torch.tensor(batch["row"], dtype=torch.int64)
    return batch
