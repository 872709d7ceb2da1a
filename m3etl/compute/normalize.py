"""The normalisation pass: stored integers in, unit-scale floats, class indexes and validity out, on any device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from m3etl.errors import InputError
from m3etl.spec.modality import ArraySpec, Shape, Transform, Values

limit = 10.0  # transformed values are clipped to [-10, 10]: a few broken pixels must not rule a loss
fusable_inputs = (torch.uint8, torch.int16, torch.uint16)
quartiles_to_sigma = 1.349  # interquartile range of a normal distribution in standard deviations


class Normalizer(nn.Module):
    """Normalises batches of stored values; `from_stats` makes one from stats.json and the declarations.

    forward takes {array: stored (B, band, y, x) or (B, feature), ...} (or one sample without B) and gives for each
    array `{array}`: for continuous and cyclic values float of `dtype`, 0 where nothing was observed; for classes int64
    indexes into the code table, -1 where nothing was observed; and `{array}_valid`: bool of the same shape. Other keys
    are passed through. An array without any statistics is 0 and invalid throughout.
    """

    def __init__(self, parts: Mapping[str, ArrayNormalizer]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))

    @classmethod
    def from_stats(cls, stats: Mapping[str, Any], specs: Sequence[ArraySpec]) -> Normalizer:
        """A normaliser of these arrays; InputError names the arrays or bands that `stats` does not have."""
        missing = [
            spec.name
            for spec in specs
            if spec.values is not Values.CLASSES and any(band not in stats.get(spec.name, {}) for band in spec.bands)
        ]
        if missing:
            hint = "Run `m3etl normalize` again: they were taken before these arrays came."
            raise InputError(f"the statistics lack {', '.join(missing)}", hint=hint)
        return cls({spec.name: _part(spec, stats.get(spec.name, {})) for spec in specs})

    def forward(self, batch: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """The normalised batch; see the class."""
        normalized: dict[str, Any] = {}
        for name, value in batch.items():
            if name in self.parts:
                normalized[name], normalized[f"{name}_valid"] = self.parts[name](value, dtype)
            else:
                normalized[name] = value
        return normalized

    def inverse(self, array: str, values: Tensor) -> Tensor:
        """Physical values (float32) of normalised ones, codes (int64) of class indexes; clipped ones stay clipped."""
        return self.parts[array].inverse(values)  # type: ignore[operator, no-any-return]


class NumberNormalizer(nn.Module):
    """(x - centre) / spread for the bands of one array, x physical or its logarithm."""

    def __init__(self, spec: ArraySpec, stats: Mapping[str, Mapping[str, float | None]]) -> None:
        super().__init__()
        self.logarithmic = spec.transform is Transform.LOG_ZSCORE
        self.clipped = spec.transform is not Transform.NONE
        self.fill = spec.fill
        self.scale, self.offset = spec.scale, spec.offset
        rows = [_centre_and_spread(spec.transform, stats[band]) for band in spec.bands]
        shape = (-1,) if spec.shape is Shape.VECTOR else (-1, 1, 1)
        for name, column in zip(("centre", "spread", "log_scale"), zip(*rows, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(column, dtype=torch.float64).view(shape))
        usable = [bool(stats[band]["count"]) for band in spec.bands]
        self.register_buffer("usable", torch.tensor(usable).view(shape))
        gain = self.scale / self.spread
        self.register_buffer("gain", gain.float())
        self.register_buffer("shift", ((self.offset - self.centre) / self.spread).float())

    centre: Tensor
    spread: Tensor
    log_scale: Tensor
    usable: Tensor
    gain: Tensor
    shift: Tensor

    def forward(self, stored: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Values of `dtype` and validity, both of the shape of `stored`."""
        if not torch.compiler.is_compiling() and self._is_fusable(stored, dtype):
            return self._fused(stored, dtype)
        wide = stored.to(torch.int32) if stored.dtype in (torch.uint16, torch.uint32) else stored
        valid = (~wide.isnan() if self.fill is None else wide != self.fill) & self.usable
        values = wide.to(torch.float32)
        if self.logarithmic:
            ratio = (values * self.scale + self.offset) / self.log_scale.float()
            values = (torch.log1p(ratio.clamp(min=0)) - self.centre.float()) / self.spread.float()
        else:
            values = values * self.gain + self.shift
        if self.clipped:
            values = values.clamp(-limit, limit)
        return torch.where(valid, values, 0.0).to(dtype), valid

    def _is_fusable(self, stored: Tensor, dtype: torch.dtype) -> bool:
        """Whether the kernel for the CPU does this; there it is many times quicker than torch on whole batches."""
        known = stored.dtype in fusable_inputs and dtype in (torch.float32, torch.bfloat16)
        picture = stored.dim() >= 3 and self.gain.dim() == 3 and not self.logarithmic
        return known and picture and stored.device.type == "cpu" and stored.is_contiguous()

    def _fused(self, stored: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        from m3etl.compute.fused import normalize_integers

        numbers = stored.numpy()
        values, valid = normalize_integers(
            numbers.reshape(-1, *numbers.shape[-3:-2], numbers.shape[-2] * numbers.shape[-1]),
            numbers.dtype.type(self.fill),
            self.gain.numpy().reshape(-1),
            self.shift.numpy().reshape(-1),
            self.usable.numpy().reshape(-1),
            limit if self.clipped else np.inf,
            bf16=dtype == torch.bfloat16,
            threads=torch.get_num_threads(),
        )
        normalized = torch.from_numpy(values).view(dtype)
        return normalized.view(stored.shape), torch.from_numpy(valid).view(stored.shape)

    def inverse(self, values: Tensor) -> Tensor:
        """Physical values, float32; NaN for bands without statistics."""
        physical = values.to(torch.float64) * self.spread + self.centre
        if self.logarithmic:
            physical = torch.expm1(physical) * self.log_scale
        return torch.where(self.usable, physical, torch.nan).float()


class ClassNormalizer(nn.Module):
    """Codes to indexes by lookup table; a code that is not in the table is invalid, like fill."""

    def __init__(self, spec: ArraySpec) -> None:
        super().__init__()
        limits = np.iinfo(spec.dtype)
        if limits.bits > 16:
            raise InputError(f"{spec.name}: class codes must be of 8 or 16 bits, found {spec.dtype}")
        self.lowest = int(limits.min)
        codes = [item.code for item in spec.classes] or range(spec.class_limit)
        self.register_buffer("codes", torch.tensor(list(codes), dtype=torch.int64))
        table = torch.full((limits.max - limits.min + 1,), -1, dtype=torch.int64)
        table[self.codes - self.lowest] = torch.arange(len(self.codes))
        self.register_buffer("table", table)

    codes: Tensor
    table: Tensor

    def forward(self, stored: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Indexes (int64) and validity, both of the shape of `stored`; `dtype` is for numbers and not used."""
        index = self.table[stored.to(torch.int64) - self.lowest]
        return index, index >= 0

    def inverse(self, values: Tensor) -> Tensor:
        """Codes of indexes; an index of -1 stays -1."""
        return torch.where(values >= 0, self.codes[values.clamp(min=0)], -1)


ArrayNormalizer = NumberNormalizer | ClassNormalizer


def _part(spec: ArraySpec, stats: Mapping[str, Any]) -> ArrayNormalizer:
    return ClassNormalizer(spec) if spec.values is Values.CLASSES else NumberNormalizer(spec, stats)


def _centre_and_spread(transform: Transform, stats: Mapping[str, Any]) -> tuple[float, float, float]:
    """Centre, spread and log scale of one band; without statistics or variation the spread is 1."""
    if not stats["count"] or transform is Transform.NONE:
        return 0.0, 1.0, 1.0
    if transform is Transform.LOG_ZSCORE:
        return stats["log_mean"], stats["log_std"] or 1.0, stats["log_scale"]
    if transform is Transform.MINMAX:
        return stats["p01"], (stats["p99"] - stats["p01"]) or (stats["max"] - stats["min"]) or 1.0, 1.0
    if transform is Transform.ROBUST:
        return stats["p50"], (stats["p75"] - stats["p25"]) / quartiles_to_sigma or stats["std"] or 1.0, 1.0
    return stats["mean"], stats["std"] or 1.0, 1.0
