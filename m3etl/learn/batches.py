"""Batches of stored values at the speed of decoding: threads that read ahead and decode into a ring of used buffers."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.errors import InputError
from m3etl.io.decoding import load_native
from m3etl.io.reader import piece_rows
from m3etl.learn.buffers import Ring, Slot
from m3etl.learn.order import Order
from m3etl.learn.selection import Place, Require, open_data, select_rows, select_specs
from m3etl.learn.view import View, ViewPlan
from m3etl.spec.modality import ArraySpec

state_version = 1
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A batch that is being decoded into a slot, piece by piece."""

    slot: Slot
    rows: npt.NDArray[np.int64]
    pieces: list[Future[None]]


class BatchStream:
    """Iterates over batches {array: (B, band, y, x), (B, period, band, y, x) or (B, feature) of the stored dtype,
    "row": int64 (B,)}, as NumPy.

    place: a campaign directory, a URL or an open store. shuffle: "window" (chips of a few random shards mixed), "full"
    or "none"; order, crops and turns are functions of seed, epoch and row, whatever the number of threads. Each pass is
    an epoch; the next pass is the next epoch. A batch's memory is used again only after its arrays are gone, so batches
    may be kept. read_ahead: batches that the disk is asked for in advance; a remote store is asked further ahead, in
    large pieces. With several ranks each takes its own part of every step.

    state_dict() after batch k of an epoch (counted as consumed when handed out) and load_state_dict() give exactly the
    remaining batches, also with another world_size if batch_size x world_size divides what was consumed. Raises
    NothingSelectedError without chips, DamagedError naming chip, array and file where the store is damaged.
    """

    def __init__(
        self,
        place: Place,
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
        pin_memory: bool = False,
        flat_periods: bool = False,
    ) -> None:
        if threads < 1 or read_ahead < 0:
            raise InputError(f"the loader needs threads >= 1 and read_ahead >= 0, found {threads} and {read_ahead}")
        self.store = open_data(place)
        wanted = select_specs(self.store, arrays)
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
        self._plan = ViewPlan(view, wanted, self.store.chip_m)
        self.flat_periods = flat_periods
        self._scratch = threading.local()
        self._prefetch = max(2, -(-2 * threads * piece_rows // batch_size))
        largest = min(batch_size, self.order.rows.size)
        layout = {name: ((largest, *self._plan.shapes[name]), spec.dtype) for name, spec in wanted.items()}
        self._ring = Ring(layout, self._prefetch + 3, pinned=pin_memory)
        self._epoch = 0
        self._step = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.order.steps

    @property
    def specs(self) -> Mapping[str, ArraySpec]:
        """The declaration of each array that comes, with the bands of the view."""
        return self._plan.shown

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one sample of each array, after the view."""
        return {name: self._shape_of(name, shape) for name, shape in self._plan.shapes.items()}

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
            "rows": self._rows_digest,
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

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, start = self._epoch, self._resume_at
        self._step, self._resume_at = start, 0
        order = self.order.of_epoch(epoch)
        ahead = _ReadAhead(self, order, start)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="m3etl-decode")
        queued: deque[Queued] = deque()
        try:
            following = start
            for step in range(start, len(self)):
                while following < min(step + self._prefetch, len(self)):
                    ahead.reach(following)
                    queued.append(self._queue(pool, order, epoch, following))
                    following += 1
                if step == start:
                    pool.submit(load_native)  # after the first batches, which do not wait for it
                for piece in queued[0].pieces:
                    piece.result()
                self._step = step + 1
                yield self._batch(queued[0])
                self._ring.give(queued.popleft().slot)
        finally:
            ahead.close()
            pool.shutdown(wait=True, cancel_futures=True)
            for left in queued:
                self._ring.give(left.slot)
        self._epoch, self._step = epoch + 1, 0

    def _queue(self, pool: ThreadPoolExecutor, order: npt.NDArray[np.int64], epoch: int, step: int) -> Queued:
        rows = self.order.of_step(order, step)
        placements = self._plan.draw(self.order.seed, epoch, rows)
        slot = self._ring.take()
        starts = range(0, rows.size, piece_rows)
        pieces = [pool.submit(self._fill, slot, rows, placements, start) for start in starts]
        return Queued(slot=slot, rows=rows, pieces=pieces)

    def _batch(self, queued: Queued) -> dict[str, Any]:
        """What the consumer gets of a decoded batch; each part keeps its buffer from being used again."""
        count = queued.rows.size
        batch = {
            name: buffer[:count].reshape(self._shape_of(name, (count, *buffer.shape[1:])))
            for name, buffer in queued.slot.buffers.items()
        }
        return {**batch, "row": queued.rows.astype(np.int64)}

    def _shape_of(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape) if self.flat_periods else self._plan.shown[name].with_periods(shape)

    def _fill(self, slot: Slot, rows: npt.NDArray[np.int64], placements: npt.NDArray[np.int64], start: int) -> None:
        end = min(start + piece_rows, rows.size)
        decoded = {
            name: buffer[start:end] if name in self._plan.untouched else self._scratch_of(name)[: end - start]
            for name, buffer in slot.buffers.items()
        }
        self.store.read_rows(rows[start:end].tolist(), decoded)
        shown = placements[start:end].tolist()
        for name, buffer in slot.buffers.items():
            if name not in self._plan.untouched:
                for place, placement in enumerate(shown):
                    self._plan.apply(name, decoded[name][place], placement, buffer[start + place])

    def _scratch_of(self, name: str) -> Array:
        found: Array | None = self._scratch.__dict__.get(name)
        if found is None:
            found = np.empty((piece_rows, *self.store.chip_shape(name)), dtype=self.store.specs[name].dtype)
            self._scratch.__dict__[name] = found
        return found

    @cached_property
    def _rows_digest(self) -> str:
        return hashlib.sha256(self.order.rows.tobytes()).hexdigest()[:16]


class _ReadAhead:
    """Tells the store early what will be read: a disk a few batches ahead; a remote store in growing spans of steps,
    so that the first batch is quick and later requests are few and large."""

    def __init__(self, stream: BatchStream, order: npt.NDArray[np.int64], start: int) -> None:
        self._stream = stream
        self._order = order
        self._reached = start
        self._span = max(stream.read_ahead, 1)
        batch_bytes = stream.order.batch_size * sum(stream.store.chip_bytes(name) for name in stream.specs)
        self._longest = max(self._span, stream.store.source.ahead_bytes // batch_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="m3etl-ahead")
        self._asked: deque[tuple[int, Future[None]]] = deque()

    def reach(self, step: int) -> None:
        """Called before the chips of `step` are decoded."""
        if not self._stream.read_ahead:
            return
        if not self._stream.store.source.is_remote:
            self._ask(step)
            return
        if step + self._span // 2 >= self._reached:
            self._asked.append((self._reached, self._ask(step)))
            self._span = min(2 * self._span, self._longest)
        while self._asked and self._asked[0][0] <= step:
            self._asked.popleft()[1].result()  # its chunks are on their way then, and not asked for twice

    def close(self) -> None:
        """Nothing more is read ahead."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._stream.store.source.cancel()

    def _ask(self, step: int) -> Future[None]:
        """Ask for everything from what was asked for last to a span beyond `step`."""
        steps = range(self._reached, min(step + 1 + self._span, len(self._stream)))
        self._reached = max(self._reached, steps.stop)
        return self._thread.submit(self._prefetch, steps)

    def _prefetch(self, steps: range) -> None:
        rows = [row for step in steps for row in self._stream.order.of_step(self._order, step).tolist()]
        self._stream.store.prefetch(list(self._stream.specs), rows)
