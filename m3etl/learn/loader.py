"""The loader for training: batches of tensors of stored values, page-locked where there is a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from m3etl.learn.batches import BatchStream, Queued
from m3etl.learn.selection import Place


class ChipLoader(BatchStream):
    """Iterates over batches {array: tensor (B, band, y, x), (B, period, band, y, x) or (B, feature) of the stored
    dtype, "row": int64 (B,)}.

    Options, order, resuming and errors are those of `BatchStream`. pin_memory: page-locked buffers, by default where
    there is a CUDA device. Not for DataLoader: it has its own threads.
    """

    def __init__(self, place: Place, *, pin_memory: bool | None = None, **options: Any) -> None:
        pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        super().__init__(place, pin_memory=pinned, **options)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return super().__iter__()

    def _batch(self, queued: Queued) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(values) for name, values in super()._batch(queued).items()}
