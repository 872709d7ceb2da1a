"""The pixel lane: what is asked for a chip or a block of chips in how many requests, and what became of a chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from m3etl.io.answers import Array as Array
from m3etl.io.answers import arrays_of as arrays_of
from m3etl.io.answers import read_answer as read_answer
from m3etl.io.blocks import block_of
from m3etl.io.recipes import pixel_request
from m3etl.io.segments import Part
from m3etl.spec.chipgrid import ChipGrid, Window
from m3etl.spec.jobs import (
    ArrayScenes,
    ArrayStatus,
    max_request_bands,
    max_request_bytes,
    max_request_side_px,
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
    """One request: some arrays of a chip on a window of its grid, or of a whole block; `members` are the chips of the
    block, `job` is then about all of it.
    """

    job: PixelJob
    arrays: tuple[str, ...]
    window: Window
    check: bool
    members: tuple[PixelJob, ...] = ()

    @property
    def chips(self) -> tuple[PixelJob, ...]:
        """The chips that it is for."""
        return self.members or (self.job,)

    @property
    def counted_bytes(self) -> int:
        """Bytes that the service counts for it, mask bytes included."""
        window = self.window
        rows = window.bottom - window.top
        counted = request_bytes(window.width, rows, [self.job.specs[name] for name in self.arrays])
        return counted + (window.width * rows * check_bytes if self.check else 0)

    @property
    def nbytes(self) -> int:
        """What its answer takes in memory; that of a block is there twice while it is cut."""
        window = self.window
        specs = [self.job.specs[name] for name in self.arrays]
        pixel = sum(np.dtype(spec.dtype).itemsize * len(spec.bands) for spec in specs) + (12 if self.check else 0)
        return window.width * (window.bottom - window.top) * pixel * (2 if self.members else 1)

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


def plan_block(jobs: Sequence[PixelJob], chips: int) -> list[PixelRequest]:
    """Requests for neighbouring chips, all in one block of `chips` x `chips`: one for the block where its chips are
    made of the same scenes and fill half of it, else for its quarters, down to single chips.
    """
    if chips == 1 or len(jobs) == 1:
        return [request for job in jobs for request in plan_requests(job)]
    if 2 * len(jobs) >= chips * chips and len({_scenes_of(job) for job in jobs}) == 1:
        wanted = jobs[0].wanted()
        block = _block_request(jobs, chips, wanted) if wanted else None
        if block is None or _is_within_limits(block):
            return [block] if block else []
    return [request for part in _quarters(jobs, chips) for request in plan_block(part, chips // 2)]


def split_block(request: PixelRequest) -> list[PixelRequest]:
    """Requests for the quarters of a block that ask for the same arrays; single chips where a quarter is one."""
    chips = request.job.chip.chips // 2
    parts = []
    for members in _quarters(request.members, 2 * chips):
        if chips > 1 and len(members) > 1:
            parts.append(_block_request(members, chips, request.arrays))
        else:
            parts += [_request(job, request.arrays, job.check) for job in members]
    return parts


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
    if not left:
        return None
    return replace(_request(request.job, left, request.check), members=request.members)


def with_scenes(request: PixelRequest, scenes: Mapping[str, ArrayScenes]) -> PixelRequest:
    """The same request with some arrays made of these scenes."""

    def changed(job: PixelJob) -> PixelJob:
        return replace(job, scenes={**job.scenes, **scenes})

    return replace(request, job=changed(request.job), members=tuple(changed(job) for job in request.members))


def expression_of(request: PixelRequest) -> dict[str, Any]:
    """The request as the client wants it."""
    job = request.job
    arrays = [(job.specs[name], job.scenes[name].request_ids) for name in request.arrays]
    return pixel_request(job.chip, request.window, arrays, check=request.check, tag=tag)


def _request(job: PixelJob, arrays: tuple[str, ...], check: bool) -> PixelRequest:
    side = max(job.chip.pixels(job.specs[name]) for name in arrays)
    return PixelRequest(job=job, arrays=arrays, window=Window(width=side, top=0, bottom=side), check=check)


def _block_request(jobs: Sequence[PixelJob], chips: int, arrays: tuple[str, ...]) -> PixelRequest:
    grid = block_of(jobs[0].chip, chips)
    # What planning promised of a chip is checked chip by chip; of the block it promised nothing.
    scenes = {name: unpromised(item) for name, item in jobs[0].scenes.items()}
    check = any(job.check for job in jobs)
    job = PixelJob(chip=grid, specs=jobs[0].specs, scenes=scenes, check=check)
    return replace(_request(job, arrays, check), members=tuple(jobs))


def unpromised(scenes: ArrayScenes) -> ArrayScenes:
    """The same scenes, of whose valid pixels nothing is known."""
    periods = {period: unpromised(item) for period, item in scenes.periods.items()}
    return replace(scenes, valid_fraction=None, periods=periods)


def _scenes_of(job: PixelJob) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, job.scenes[name].request_ids) for name in job.wanted())


def _quarters(jobs: Sequence[PixelJob], chips: int) -> list[list[PixelJob]]:
    parts: dict[str, list[PixelJob]] = {}
    for job in jobs:
        parts.setdefault(block_of(job.chip, chips // 2).chip_id, []).append(job)
    return list(parts.values())


def _within_limits(request: PixelRequest) -> list[PixelRequest]:
    if _is_within_limits(request):
        return [request]
    parts = halves(request)
    if parts is None:
        return [request]
    return [fitting for part in parts for fitting in _within_limits(part)]


def _is_within_limits(request: PixelRequest) -> bool:
    bands = sum(len(request.job.specs[name].bands) for name in request.arrays) + 3 * request.check
    return (
        request.counted_bytes <= max_request_bytes
        and bands <= max_request_bands
        and request.window.width <= max_request_side_px
    )


# --- whole chips ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeChip:
    """A chip all of whose requests are answered. statuses: arrays that came out otherwise than planned."""

    chip_id: str
    parts: tuple[Part, ...]
    valid: Mapping[str, float]
    statuses: Mapping[str, ArrayStatus]


def final_status(spec: ArraySpec, planned: ArrayStatus, change: ArrayStatus | None, valid: float) -> ArrayStatus:
    """The recorded outcome of an array: as planned or changed; `ok` only where something was observed."""
    status = change or planned
    if status is ArrayStatus.OK and valid == 0:
        nothing_there = spec.temporal in (Temporal.STATIC, Temporal.YEAR, Temporal.SEASONS)
        return ArrayStatus.NO_SCENE if nothing_there else ArrayStatus.INVALID
    return status
