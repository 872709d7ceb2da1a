"""Batches of stored values at the speed of decoding: prefetch threads in this process, a ring of reused buffers."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from m3etl.errors import InputError
from m3etl.io.store import open_store
from m3etl.learn.buffers import Ring, Slot
from m3etl.learn.dataset import Require, campaign_of, select_rows, select_specs
from m3etl.learn.order import Order
from m3etl.learn.view import View, ViewPlan
from m3etl.spec.modality import ArraySpec, Shape

piece_chips = 8  # chips that one thread decodes at a time: short enough to share a batch, long enough to be cheap
state_version = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A batch that is being decoded into a slot, piece by piece."""

    slot: Slot
    rows: npt.NDArray[np.int64]
    pieces: list[Future[None]]


class ChipLoader:
    """Iterates over batches {array: tensor (B, band, y, x) or (B, feature) of the stored dtype, "row": int64 (B,)}.

    shuffle: "window" (chips of a few random shards mixed), "full" or "none"; order, crops and turns are functions of
    seed, epoch and row, whatever the number of threads. Each pass is an epoch; the next pass is the next epoch. A
    batch's memory is used again only after its tensors are gone, so batches may be kept. Not for DataLoader: it has
    its own threads.

    state_dict() after batch k of an epoch (counted as consumed when handed out) and load_state_dict() give exactly the
    remaining batches, also with another world_size if batch_size x world_size divides what was consumed. Raises
    NothingSelectedError without chips, DamagedError naming chip, array and file where the store is damaged.
    """

    def __init__(
        self,
        campaign_dir: Path | str,
        *,
        arrays: Sequence[str] | None = None,
        split: str | None = "train",
        batch_size: int,
        view: View | None = None,
        shuffle: str = "window",
        seed: int = 0,
        threads: int = 2,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        require: Require = (),
        read_ahead: int = 2,
        pin_memory: bool | None = None,
    ) -> None:
        if threads < 1 or read_ahead < 0:
            raise InputError(f"the loader needs threads >= 1 and read_ahead >= 0, found {threads} and {read_ahead}")
        self.store = open_store(campaign_of(campaign_dir).store_path)
        self.specs: Mapping[str, ArraySpec] = select_specs(self.store, arrays)
        self.order = Order(
            rows=select_rows(self.store, split, require),
            shard_chips=self.store.shard_chips,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )
        self.threads = threads
        self.read_ahead = read_ahead
        self._plan = ViewPlan(view, self.specs, self.store.chip_m)
        self._scratch = threading.local()
        self._prefetch = max(2, -(-2 * threads * piece_chips // batch_size))
        pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        largest = min(batch_size, self.order.rows.size)
        layout = {name: ((largest, *self._plan.shapes[name]), spec.dtype) for name, spec in self.specs.items()}
        self._ring = Ring(layout, self._prefetch + 3, pinned=pinned)
        self._epoch = 0
        self._step = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.order.steps

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one sample of each array, after the view."""
        return self._plan.shapes

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass; another epoch than the resumed one starts at its beginning."""
        if epoch != self._epoch:
            self._epoch, self._step, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the last batch that was handed out left off; plain numbers and strings."""
        return {
            "version": state_version,
            "epoch": self._epoch,
            "consumed": self._step * self.order.step_chips,
            "seed": self.order.seed,
            "shuffle": self.order.shuffle,
            "rows": self._rows_digest(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the batch at which `state` was taken; InputError where the stream would be another."""
        here = self.state_dict()
        problems = [
            f"{name} was {state.get(name)} and is {here[name]}"
            for name in ("version", "seed", "shuffle", "rows")
            if state.get(name) != here[name]
        ]
        consumed = int(state["consumed"])
        if consumed % self.order.step_chips and consumed < self.order.rows.size:
            problems.append(
                f"{consumed} chips were consumed, no multiple of batch_size x world_size = {self.order.step_chips}"
            )
        if problems:
            hint = "Resume with the data, seed, shuffle and total batch size of the first run."
            raise InputError("the loader cannot resume: " + "; ".join(problems), hint=hint)
        self._epoch = int(state["epoch"])
        self._step = self._resume_at = -(-consumed // self.order.step_chips)
        if self._step >= len(self):
            self._epoch, self._step, self._resume_at = self._epoch + 1, 0, 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch, start = self._epoch, self._resume_at
        self._step, self._resume_at = start, 0
        order = self.order.of_epoch(epoch)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="m3etl-decode")
        queued: deque[Queued] = deque()
        try:
            following = start
            for step in range(start, len(self)):
                while following < min(step + self._prefetch, len(self)):
                    queued.append(self._queue(pool, order, epoch, following))
                    following += 1
                for piece in queued[0].pieces:
                    piece.result()
                self._step = step + 1
                yield self._batch(queued[0])
                self._ring.give(queued.popleft().slot)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for left in queued:
                self._ring.give(left.slot)
        self._epoch, self._step = epoch + 1, 0

    def _queue(self, pool: ThreadPoolExecutor, order: npt.NDArray[np.int64], epoch: int, step: int) -> Queued:
        rows = self.order.of_step(order, step)
        placements = self._plan.draw(self.order.seed, epoch, rows)
        slot = self._ring.take()
        if self.read_ahead and step + self.read_ahead < len(self):
            pool.submit(self._advise, self.order.of_step(order, step + self.read_ahead))
        starts = range(0, rows.size, piece_chips)
        pieces = [pool.submit(self._fill, slot, rows, placements, start) for start in starts]
        return Queued(slot=slot, rows=rows, pieces=pieces)

    def _batch(self, queued: Queued) -> dict[str, torch.Tensor]:
        count = queued.rows.size
        batch = {name: torch.from_numpy(buffer[:count]) for name, buffer in queued.slot.buffers.items()}
        batch["row"] = torch.from_numpy(queued.rows.astype(np.int64))
        return batch

    def _fill(self, slot: Slot, rows: npt.NDArray[np.int64], placements: npt.NDArray[np.int64], start: int) -> None:
        places = range(start, min(start + piece_chips, rows.size))
        for name in self.specs:
            buffer = slot.buffers[name]
            if name in self._plan.untouched:
                for place in places:
                    self.store.read_chip_into(name, int(rows[place]), buffer[place])
                continue
            scratch = self._scratch_of(name)
            for place in places:
                self.store.read_chip_into(name, int(rows[place]), scratch)
                self._plan.apply(name, scratch, placements[place].tolist(), buffer[place])

    def _scratch_of(self, name: str) -> npt.NDArray[Any]:
        found = self._scratch.__dict__.get(name)
        if found is None:
            found = self._scratch.__dict__[name] = np.empty(self.store.chip_shape(name), dtype=self.specs[name].dtype)
        return found

    def _advise(self, rows: npt.NDArray[np.int64]) -> None:
        for name, spec in self.specs.items():
            if spec.shape is Shape.RASTER:
                for row in rows.tolist():
                    self.store.advise(name, row)

    def _rows_digest(self) -> str:
        return hashlib.sha256(self.order.rows.tobytes()).hexdigest()[:16]
