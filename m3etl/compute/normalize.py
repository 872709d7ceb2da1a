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
kernel_kinds = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
kernel_inputs = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32, torch.float32)
quartiles_to_sigma = 1.349  # interquartile range of a normal distribution in standard deviations


Reused = tuple[Tensor | None, Tensor | None] | None  # values and validity of an earlier batch


class Normalizer(nn.Module):
    """Normalises batches of stored values; `from_stats` makes one from stats.json and the declarations.

    forward takes {array: stored (B, band, y, x), (B, period, band, y, x) or (B, feature), ...} (or one sample without
    B; periods may come one after the other in the axis of bands as well) and gives for each
    array `{array}`: for continuous and cyclic values float of `dtype`, 0 where nothing was observed; for classes int64
    indexes into the code table, -1 where nothing was observed; and `{array}_valid`: bool of the same shape. Other keys
    are passed through. An array without any statistics is 0 and invalid throughout.

    On the CPU pictures go through the kernels of `compute.fused`, quickest when the result of an earlier such batch
    is given as `out`: its memory is used again. On CUDA `compile()` makes one kernel of each array.
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

    def forward(
        self, batch: Mapping[str, Any], dtype: torch.dtype = torch.float32, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The normalised batch; see the class. out: an earlier result, overwritten where shape and type fit."""
        normalized: dict[str, Any] = {}
        for name, value in batch.items():
            if name in self.parts:
                bands = self.parts[name].bands
                old = None if out is None else (_flat(out.get(name), bands), _flat(out.get(f"{name}_valid"), bands))
                values, valid = self.parts[name](_flat(value, bands), dtype, old)
                normalized[name], normalized[f"{name}_valid"] = _shaped(values, value), _shaped(valid, value)
            else:
                normalized[name] = value
        return normalized

    def inverse(self, array: str, values: Tensor) -> Tensor:
        """Physical values (float32) of normalised ones, codes (int64) of class indexes; clipped ones stay clipped."""
        part = self.parts[array]
        return _shaped(part.inverse(_flat(values, part.bands)), values)  # type: ignore[operator]


class NumberNormalizer(nn.Module):
    """(x - centre) / spread for the bands of one array, x physical or its logarithm."""

    def __init__(self, spec: ArraySpec, stats: Mapping[str, Mapping[str, float | None]]) -> None:
        super().__init__()
        self.logarithmic = spec.transform is Transform.LOG_ZSCORE
        self.clipped = spec.transform is not Transform.NONE
        self.bands = len(spec.bands)
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

    def forward(self, stored: Tensor, dtype: torch.dtype, out: Reused = None) -> tuple[Tensor, Tensor]:
        """Values of `dtype` and validity, both of the shape of `stored`."""
        if _is_for_kernels(stored) and self._has_kernel(stored, dtype):
            return self._by_kernel(stored, dtype, out)
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

    def _has_kernel(self, stored: Tensor, dtype: torch.dtype) -> bool:
        return stored.dtype in kernel_inputs and dtype in kernel_kinds and self.gain.dim() == 3 and not self.logarithmic

    def _by_kernel(self, stored: Tensor, dtype: torch.dtype, out: Reused) -> tuple[Tensor, Tensor]:
        from m3etl.compute.fused import BandScale, normalize_numbers

        scale = BandScale(
            gain=self.gain.numpy().reshape(-1),
            shift=self.shift.numpy().reshape(-1),
            usable=self.usable.numpy().reshape(-1),
            fill=stored.numpy().dtype.type(np.nan if self.fill is None else self.fill),
            limit=limit if self.clipped else np.inf,
        )
        values, valid = _memory_for(stored, dtype, out)
        bits = values if dtype == torch.float32 else values.view(torch.uint16)
        shape = (-1, stored.shape[-3], stored.shape[-2] * stored.shape[-1])
        flat, target, seen = (part.numpy().reshape(shape) for part in (stored, bits, valid))
        normalize_numbers(flat, scale, target, seen, kind=kernel_kinds[dtype], threads=torch.get_num_threads())
        return values, valid

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
        self.bands = len(spec.bands)
        self.lowest = int(limits.min)
        codes = [item.code for item in spec.classes] or range(spec.class_limit)
        self.register_buffer("codes", torch.tensor(list(codes), dtype=torch.int64))
        table = torch.full((limits.max - limits.min + 1,), -1, dtype=torch.int64)
        table[self.codes - self.lowest] = torch.arange(len(self.codes))
        self.register_buffer("table", table)

    codes: Tensor
    table: Tensor

    def forward(self, stored: Tensor, dtype: torch.dtype, out: Reused = None) -> tuple[Tensor, Tensor]:
        """Indexes (int64) and validity, both of the shape of `stored`; `dtype` is for numbers and not used."""
        if _is_for_kernels(stored):
            return self._by_kernel(stored, out)
        index = self.table[stored.to(torch.int64) - self.lowest]
        return index, index >= 0

    def _by_kernel(self, stored: Tensor, out: Reused) -> tuple[Tensor, Tensor]:
        from m3etl.compute.fused import look_up_classes

        index, valid = _memory_for(stored, torch.int64, out)
        shape = (-1, stored.shape[-3] * stored.shape[-2] * stored.shape[-1])
        flat, target, seen = (part.numpy().reshape(shape) for part in (stored, index, valid))
        look_up_classes(flat, self.table.numpy(), self.lowest, target, seen, threads=torch.get_num_threads())
        return index, valid

    def inverse(self, values: Tensor) -> Tensor:
        """Codes of indexes; an index of -1 stays -1."""
        return torch.where(values >= 0, self.codes[values.clamp(min=0)], -1)


ArrayNormalizer = NumberNormalizer | ClassNormalizer


def _flat(values: Tensor | None, bands: Any) -> Any:
    """(..., period, band, y, x) with the bands of all periods, `bands` of them, in one axis; anything else as it is."""
    if values is None or values.dim() < 4 or values.shape[-3] == bands:
        return values
    return values.flatten(-4, -3)


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    return values if values.dim() == like.dim() else values.view(like.shape)


def _is_for_kernels(stored: Tensor) -> bool:
    """Whether this is a picture, or a batch of them, where the kernels for the CPU can work."""
    if torch.compiler.is_compiling():
        return False
    return stored.dim() >= 3 and stored.device.type == "cpu" and stored.is_contiguous() and stored.numel() > 0


def _memory_for(stored: Tensor, dtype: torch.dtype, out: Reused) -> tuple[Tensor, Tensor]:
    """Room for values and validity: that of `out` where it fits."""
    values, valid = out or (None, None)
    return _room(values, stored.shape, dtype), _room(valid, stored.shape, torch.bool)


def _room(old: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    if old is not None and old.shape == shape and old.dtype == dtype and old.is_contiguous():
        return old
    return torch.empty(shape, dtype=dtype)


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
