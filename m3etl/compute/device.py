"""Normalising batch after batch on a device: on CUDA the next batch travels, as stored integers, while one is computed.

Every batch is written into memory that is kept: page-locked slots on the host and their copies on the device.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m3etl.compute.normalize import Normalizer

Rows = npt.NDArray[np.int64]
Fill = Callable[[Rows, Mapping[str, npt.NDArray[Any]]], None]
Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
Batch = tuple[Rows, dict[str, Tensor]]

slots_on_cuda = 2  # one batch is computed while the next is read and copied


class BatchNormalizer:
    """Runs a `Normalizer` over any number of batches. chips: shape and numpy dtype of one chip by array.

    batch_size: most chips of a batch. Results are of `dtype`. On CUDA the normaliser is compiled, one kernel an array.
    """

    def __init__(
        self,
        normalizer: Normalizer,
        chips: Mapping[str, tuple[tuple[int, ...], str]],
        *,
        batch_size: int,
        device: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._device = torch.device(device)
        self._dtype = dtype
        self._normalizer = normalizer.to(self._device)
        self._shapes = {name: ((batch_size, *shape), getattr(torch, kind)) for name, (shape, kind) in chips.items()}
        if self._device.type == "cuda":
            self._normalizer.compile(fullgraph=True, dynamic=False)

    def run(self, batches: Iterable[Rows], fill: Fill) -> Iterator[Batch]:
        """Each batch with its normalised arrays, as `Normalizer` gives them, on the device; good until the next one.

        fill: writes the stored values of some rows into buffers of as many chips.
        """
        return self._on_cuda(batches, fill) if self._device.type == "cuda" else self._on_cpu(batches, fill)

    def _on_cpu(self, batches: Iterable[Rows], fill: Fill) -> Iterator[Batch]:
        host = {name: torch.empty(shape, dtype=kind) for name, (shape, kind) in self._shapes.items()}
        values: dict[str, Any] | None = None
        for rows in batches:
            stored = {name: buffer[: len(rows)] for name, buffer in host.items()}
            fill(rows, {name: part.numpy() for name, part in stored.items()})
            values = self._normalizer(stored, self._dtype, values)
            yield rows, values

    def _on_cuda(self, batches: Iterable[Rows], fill: Fill) -> Iterator[Batch]:
        slots = [_CudaSlot(self._shapes, self._device) for _ in range(slots_on_cuda)]
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        waiting: deque[tuple[Rows, _CudaSlot]] = deque()
        try:
            for rows, slot in zip(batches, itertools.cycle(slots), strict=False):
                slot.send(rows, fill, stream)
                waiting.append((rows, slot))
                if len(waiting) == len(slots):
                    yield self._computed(*waiting.popleft())
            while waiting:
                yield self._computed(*waiting.popleft())
        finally:
            stream.synchronize()

    def _computed(self, rows: Rows, slot: _CudaSlot) -> Batch:
        """The whole slot is computed, however few chips it holds, so that one compiled kernel fits every batch."""
        values = slot.compute(lambda stored: self._normalizer(stored, self._dtype))
        return rows, {name: part[: len(rows)] for name, part in values.items()}


class _CudaSlot:
    """Room for one batch in page-locked memory and on the device, and the events that keep its users apart."""

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        self._host = {name: torch.empty(shape, dtype=kind, pin_memory=True) for name, (shape, kind) in shapes.items()}
        self._there = {name: torch.empty(shape, dtype=kind, device=device) for name, (shape, kind) in shapes.items()}
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._computed = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, rows: Rows, fill: Fill, stream: torch.cuda.Stream) -> None:
        """Fill the host's side, once its last batch has left, and queue the copy, once the device's side was used."""
        self._copied.synchronize()
        fill(rows, {name: buffer[: len(rows)].numpy() for name, buffer in self._host.items()})
        stream.wait_event(self._computed)
        with torch.cuda.stream(stream):
            for name, buffer in self._host.items():
                self._there[name][: len(rows)].copy_(buffer[: len(rows)], non_blocking=True)
        self._copied.record(stream)

    def compute(self, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `function` makes of the batch, in the current stream, once it has arrived."""
        current = torch.cuda.current_stream()
        current.wait_event(self._copied)
        values = function(self._there)
        self._computed.record(current)
        return values
