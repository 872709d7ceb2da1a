"""The ring of batch buffers: memory is used again once nobody holds a tensor of it, and never before."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

own_references = 3  # of a buffer that only the ring holds: its slot, the loop over it and the counting call


@dataclass(slots=True, eq=False)
class Slot:
    """Buffers of one batch. `copied`: reached when copies to the device that were queued from it are done."""

    buffers: dict[str, npt.NDArray[Any]]
    busy: bool = False
    copied: Any = field(default=None)

    def is_free(self) -> bool:
        """Whether no decoder, no tensor outside and no copy to a device uses the memory any more."""
        if self.busy or (self.copied is not None and not self.copied.query()):
            return False
        return all(sys.getrefcount(buffer) <= own_references for buffer in self.buffers.values())


class Ring:
    """At most `size` slots that are used again; a consumer that keeps batches gets fresh memory beyond that.

    layout: name -> (shape, dtype) of one batch. pinned: page-locked memory, for fast copies to a CUDA device.
    """

    def __init__(self, layout: Mapping[str, tuple[tuple[int, ...], str]], size: int, *, pinned: bool) -> None:
        self._layout = layout
        self._size = size
        self._pinned = pinned
        self._slots: list[Slot] = []

    def take(self) -> Slot:
        """A slot that nobody uses, marked busy."""
        slot = next((slot for slot in self._slots if slot.is_free()), None)
        if slot is None:
            slot = Slot({name: self._allocate(*item) for name, item in self._layout.items()})
            if len(self._slots) < self._size:
                self._slots.append(slot)
        slot.busy, slot.copied = True, None
        return slot

    def give(self, slot: Slot) -> None:
        """Decoding and handing over are finished; the slot is free when the consumer lets go of its tensors."""
        if self._pinned:
            import torch

            slot.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            slot.copied.record()
        slot.busy = False

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        if not self._pinned:
            return np.empty(shape, dtype=dtype)
        import torch

        kind = torch.from_numpy(np.empty(0, dtype=dtype)).dtype
        return torch.empty(shape, dtype=kind, pin_memory=True).numpy()
