"""The pixel lane: what is asked for a chip in how many requests, and the landing of whole chips."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from m3etl.io.answers import Array as Array
from m3etl.io.answers import arrays_of as arrays_of
from m3etl.io.answers import read_answer as read_answer
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.recipes import ChipGrid, Window, pixel_request
from m3etl.io.segments import Part
from m3etl.spec.jobs import (
    ArrayScenes,
    ArrayStatus,
    max_request_bands,
    max_request_bytes,
    request_bytes,
)
from m3etl.spec.modality import ArraySpec, Shape, Temporal

least_rows = 16
check_bytes = 15  # three int32 bands and their mask bytes
tag = "m3etl-pixels"


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelJob:
    """One chip to fetch. scenes: planned arrays by name, with their declarations; check: carries the check band."""

    chip: ChipGrid
    specs: Mapping[str, ArraySpec]
    scenes: Mapping[str, ArrayScenes]
    check: bool

    def wanted(self) -> tuple[str, ...]:
        """Arrays that need pixels: rasters that have scenes."""
        return tuple(
            name
            for name, spec in self.specs.items()
            if spec.shape is Shape.RASTER and self.scenes[name].status is ArrayStatus.OK
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRequest:
    """One request: some arrays of a chip on a window of its grid."""

    job: PixelJob
    arrays: tuple[str, ...]
    window: Window
    check: bool

    @property
    def nbytes(self) -> int:
        """Bytes that the service counts for it, mask bytes included."""
        return _counted_bytes(self.job, self.arrays, self.window, self.check)

    def asked(self) -> dict[str, Any]:
        """What is needed to read the answer later, as plain JSON."""
        window = self.window
        return {
            "arrays": list(self.arrays),
            "width": window.width,
            "top": window.top,
            "bottom": window.bottom,
            "check": self.check,
        }


def plan_requests(job: PixelJob) -> list[PixelRequest]:
    """The fewest requests that bring a chip within the service's limits: usually one; split by arrays, then by rows."""
    wanted = job.wanted()
    return _within_limits(_request(job, wanted, job.check)) if wanted else []


def halves(request: PixelRequest) -> list[PixelRequest] | None:
    """Two requests that ask for the same: half of the arrays each, or half of the rows of one array; None at the
    end.
    """
    count = len(request.arrays)
    if count > 1:
        first, second = request.arrays[: count // 2], request.arrays[count // 2 :]
        return [_request(request.job, first, request.check), _request(request.job, second, False)]
    window = request.window
    rows = window.bottom - window.top
    if rows < 2 * least_rows:
        return None
    middle = window.top + rows // 2
    return [
        PixelRequest(job=request.job, arrays=request.arrays, window=part, check=request.check)
        for part in (
            Window(width=window.width, top=window.top, bottom=middle),
            Window(width=window.width, top=middle, bottom=window.bottom),
        )
    ]


def without(request: PixelRequest, arrays: Sequence[str]) -> PixelRequest | None:
    """The same request less some arrays; None when nothing is left."""
    left = tuple(name for name in request.arrays if name not in arrays)
    return _request(request.job, left, request.check) if left else None


def expression_of(request: PixelRequest) -> dict[str, Any]:
    """The request as the client wants it."""
    job = request.job
    arrays = [(job.specs[name], job.scenes[name].scene_ids) for name in request.arrays]
    return pixel_request(job.chip, request.window, arrays, check=request.check, tag=tag)


def _request(job: PixelJob, arrays: tuple[str, ...], check: bool) -> PixelRequest:
    side = max(job.chip.pixels(job.specs[name]) for name in arrays)
    return PixelRequest(job=job, arrays=arrays, window=Window(width=side, top=0, bottom=side), check=check)


def _counted_bytes(job: PixelJob, arrays: Sequence[str], window: Window, check: bool) -> int:
    rows = window.bottom - window.top
    counted = request_bytes(window.width, rows, [job.specs[name] for name in arrays])
    return counted + (window.width * rows * check_bytes if check else 0)


def _within_limits(request: PixelRequest) -> list[PixelRequest]:
    bands = sum(len(request.job.specs[name].bands) for name in request.arrays) + 3 * request.check
    if request.nbytes <= max_request_bytes and bands <= max_request_bands:
        return [request]
    parts = halves(request)
    if parts is None:
        return [request]
    return [fitting for part in parts for fitting in _within_limits(part)]


# --- whole chips ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Assembly:
    pending: int
    parts: list[Part] = field(default_factory=list)
    valid: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, ArrayStatus] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeChip:
    """A chip all of whose requests are answered. statuses: arrays that came out otherwise than planned."""

    chip_id: str
    parts: tuple[Part, ...]
    valid: Mapping[str, float]
    statuses: Mapping[str, ArrayStatus]


class Chips:
    """Joins the requests of each chip: which are still out, what has come, which arrays turned out not to exist.

    Used from the coordinating thread (start, split, give_up) and the writer thread (arrived).
    """

    def __init__(self, *, fail: Callable[[str, Failure], None]) -> None:
        self._fail = fail
        self._lock = threading.Lock()
        self._open: dict[str, _Assembly] = {}
        self._whole: list[WholeChip] = []

    def start(self, jobs: Iterator[PixelJob]) -> Iterator[PixelRequest]:
        """The requests of jobs, as they are asked for. A chip without any is whole at once."""
        for job in jobs:
            requests = plan_requests(job)
            with self._lock:
                self._open[job.chip.chip_id] = _Assembly(len(requests))
                self._close_if_whole(job.chip.chip_id)
            yield from requests

    def split(self, request: PixelRequest, failure: Failure) -> Sequence[PixelRequest] | None:
        """What to send instead of a request that failed in this way; None when it has to be given up."""
        chip_id = request.job.chip.chip_id
        with self._lock:
            assembly = self._open[chip_id]
            if assembly.failed:
                return None
            if failure.kind is Kind.SOURCE_CHANGED:
                gone = [name for name in request.arrays if failure.asset in request.job.scenes[name].scene_ids]
                parts = self._less(assembly, request, gone, ArrayStatus.SOURCE_CHANGED) if gone else None
            elif failure.kind is Kind.NO_DATA and len(request.arrays) == 1:
                parts = self._less(assembly, request, request.arrays, ArrayStatus.NO_SCENE)
            elif failure.kind in (Kind.NO_DATA, Kind.TOO_LARGE):
                parts = halves(request)
            else:
                parts = None
            if parts is not None:
                assembly.pending += len(parts) - 1
                self._close_if_whole(chip_id)
            return parts

    def give_up(self, request: PixelRequest, failure: Failure) -> None:
        """A request of the chip failed for good, and the chip with it."""
        chip_id = request.job.chip.chip_id
        with self._lock:
            assembly = self._open[chip_id]
            first = not assembly.failed
            assembly.failed = True
            assembly.pending -= 1
            self._close_if_whole(chip_id)
        if first:
            self._fail(chip_id, failure)

    def arrived(self, answers: Sequence[tuple[PixelRequest, Any]]) -> list[WholeChip]:
        """Take in answers (body, valid fractions); returns the chips that are whole now."""
        with self._lock:
            for request, (body, valid) in answers:
                assembly = self._open[request.job.chip.chip_id]
                assembly.parts.append(Part(asked=request.asked(), body=body))
                for name, fraction in valid.items():
                    assembly.valid[name] = max(fraction, assembly.valid.get(name, 0.0))
                assembly.pending -= 1
                self._close_if_whole(request.job.chip.chip_id)
            whole, self._whole = self._whole, []
            return whole

    def _less(
        self, assembly: _Assembly, request: PixelRequest, arrays: Sequence[str], status: ArrayStatus
    ) -> list[PixelRequest]:
        assembly.statuses.update(dict.fromkeys(arrays, status))
        left = without(request, arrays)
        return [left] if left else []

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


def final_status(spec: ArraySpec, planned: ArrayStatus, change: ArrayStatus | None, valid: float) -> ArrayStatus:
    """The recorded outcome of an array: as planned or changed; `ok` only where something was observed."""
    status = change or planned
    if status is ArrayStatus.OK and valid == 0:
        nothing_there = spec.temporal in (Temporal.STATIC, Temporal.YEAR, Temporal.SEASONS)
        return ArrayStatus.NO_SCENE if nothing_there else ArrayStatus.INVALID
    return status
