"""Joins the requests of each chip: which are still out, what has come, which arrays turned out not to exist."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from m3etl.io.answers import Piece
from m3etl.io.blocks import block_of
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.pixels import PixelJob, PixelRequest, WholeChip, halves, plan_block, split_block, with_scenes, without
from m3etl.io.segments import Part
from m3etl.spec.jobs import ArrayStatus

most_blocks_open = 32  # wall-to-wall plans keep squares of 8 x 8 chips together, so that far fewer are open


@dataclass(slots=True)
class _Assembly:
    pending: int = 0
    parts: list[Part] = field(default_factory=list)
    valid: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, ArrayStatus] = field(default_factory=dict)
    failed: bool = False


class Chips:
    """The chips that are being fetched. fail: called with a chip that is lost for good. block_chips: chips a side of
    the blocks that are asked for together.

    Used from the coordinating thread (start, split, give_up) and the writer thread (arrived).
    """

    def __init__(self, *, fail: Callable[[str, Failure], None], block_chips: int = 1) -> None:
        self._fail = fail
        self._block_chips = block_chips
        self._lock = threading.Lock()
        self._open: dict[str, _Assembly] = {}
        self._whole: list[WholeChip] = []

    def start(self, jobs: Iterable[PixelJob | None]) -> Iterator[PixelRequest | None]:
        """The requests of jobs, as they are asked for; None goes through. A chip without any is whole at once."""
        for block in self._blocks(jobs):
            if block is None:
                yield None
                continue
            requests = plan_block(block, self._block_chips)
            with self._lock:
                for job in block:
                    self._open[job.chip.chip_id] = _Assembly()
                for request in requests:
                    for job in request.chips:
                        self._open[job.chip.chip_id].pending += 1
                for job in block:
                    self._close_if_whole(job.chip.chip_id)
            yield from requests

    def _blocks(self, jobs: Iterable[PixelJob | None]) -> Iterator[list[PixelJob] | None]:
        """The jobs by block, each given out when it is full or many others have begun since."""
        blocks: dict[str, list[PixelJob]] = {}
        for job in jobs:
            if job is None:
                yield None
                continue
            name = block_of(job.chip, self._block_chips).chip_id
            blocks.setdefault(name, []).append(job)
            if len(blocks[name]) == self._block_chips**2:
                yield blocks.pop(name)
            elif len(blocks) > most_blocks_open:
                yield blocks.pop(next(iter(blocks)))
        yield from blocks.values()

    def split(self, request: PixelRequest, failure: Failure) -> Sequence[PixelRequest] | None:
        """What to send instead of a request that failed in this way; None when it has to be given up."""
        with self._lock:
            open_chips = [self._open[job.chip.chip_id] for job in request.chips]
            if all(assembly.failed for assembly in open_chips):
                return None
            parts = self._parts(request, failure, open_chips)
            if parts is not None:
                for assembly in open_chips:
                    assembly.pending -= 1
                for part in parts:
                    for job in part.chips:
                        self._open[job.chip.chip_id].pending += 1
                for job in request.chips:
                    self._close_if_whole(job.chip.chip_id)
            return parts

    def _parts(
        self, request: PixelRequest, failure: Failure, open_chips: Sequence[_Assembly]
    ) -> list[PixelRequest] | None:
        if failure.kind is Kind.SOURCE_CHANGED:
            gone = [name for name in request.arrays if failure.asset in request.job.scenes[name].scene_ids]
            dated = {name: request.job.scenes[name].without(failure.asset) for name in gone}
            left = {name: scenes for name, (scenes, _) in dated.items() if scenes.status is ArrayStatus.OK}
            for assembly in open_chips:  # other dates of these arrays are there
                assembly.statuses |= {
                    f"{name}/{period}": ArrayStatus.SOURCE_CHANGED for name in left for period in dated[name][1]
                }
            lost = [name for name in gone if name not in left]
            if gone:
                request = with_scenes(request, left)
                return _less(open_chips, request, lost, ArrayStatus.SOURCE_CHANGED) if lost else [request]
        if request.members:
            return split_block(request)
        if failure.kind is Kind.NO_DATA and len(request.arrays) == 1:
            return _less(open_chips, request, request.arrays, ArrayStatus.NO_SCENE)
        return halves(request) if failure.kind in (Kind.NO_DATA, Kind.TOO_LARGE, Kind.DEADLINE) else None

    def give_up(self, request: PixelRequest, failure: Failure) -> None:
        """A request failed for good, and its chips with it."""
        lost = []
        with self._lock:
            for job in request.chips:
                chip_id = job.chip.chip_id
                assembly = self._open[chip_id]
                if not assembly.failed:
                    lost.append(chip_id)
                assembly.failed = True
                assembly.pending -= 1
                self._close_if_whole(chip_id)
        for chip_id in lost:
            self._fail(chip_id, failure)

    def arrived(self, answers: Iterable[Sequence[Piece]]) -> list[WholeChip]:
        """Take in the pieces of answers; returns the chips that are whole now."""
        with self._lock:
            for pieces in answers:
                for piece in pieces:
                    chip_id = piece.job.chip.chip_id
                    assembly = self._open[chip_id]
                    assembly.parts.append(piece.part)
                    for name, fraction in piece.valid.items():
                        assembly.valid[name] = max(fraction, assembly.valid.get(name, 0.0))
                    assembly.pending -= 1
                    self._close_if_whole(chip_id)
            whole, self._whole = self._whole, []
            return whole

    def _close_if_whole(self, chip_id: str) -> None:
        assembly = self._open[chip_id]
        if assembly.pending:
            return
        del self._open[chip_id]
        if assembly.failed:
            return
        parts = sorted(assembly.parts, key=lambda part: (part.asked["arrays"], part.asked["top"]))
        self._whole.append(
            WholeChip(chip_id=chip_id, parts=tuple(parts), valid=dict(assembly.valid), statuses=dict(assembly.statuses))
        )


def _less(
    open_chips: Sequence[_Assembly], request: PixelRequest, arrays: Sequence[str], status: ArrayStatus
) -> list[PixelRequest]:
    for assembly in open_chips:
        assembly.statuses.update(dict.fromkeys(arrays, status))
    left = without(request, arrays)
    return [left] if left else []
