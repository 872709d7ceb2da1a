"""The pixel lane: what is asked for a chip in how many requests, the check of what comes back, and the landing of
whole chips.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.recipes import ChipGrid, Window, check_fields, check_scale, chip_tag, pixel_m, pixel_request
from m3etl.io.segments import Part
from m3etl.spec.jobs import (
    ArrayScenes,
    ArrayStatus,
    field_name,
    max_request_bands,
    max_request_bytes,
    request_bytes,
)
from m3etl.spec.modality import ArraySpec, Shape, Temporal, Values, valid_of

Array = npt.NDArray[Any]
promise_floor = 0.5  # where planning promised at least this much, a response without any value is wrong
least_rows = 16
check_tolerance = 20  # 1e-7 degrees: 0.2 m, far below a pixel and far above rounding
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
    side = max(job.specs[name].pixels(job.chip.chip_m) for name in arrays)
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


# --- what comes back --------------------------------------------------------------------------------------------------


def read_answer(request: PixelRequest, body: bytes) -> dict[str, float]:
    """Valid fraction of each array in an answer that is what was asked for; RequestFailed for anything else."""
    fields = _structured(body)
    _check_layout(request, fields)
    if request.check:
        _check_position(request, fields)
    valid = {}
    for name in request.arrays:
        spec = request.job.specs[name]
        valid[name] = _check_values(request, spec, _array_of(spec, request, fields))
    return valid


def arrays_of(
    parts: Sequence[Part], specs: Mapping[str, ArraySpec], chip: ChipGrid, absent: Mapping[str, ArrayStatus]
) -> dict[str, Array]:
    """The arrays of one landed chip from its parts, of stored dtype and chip_shape; arrays in `absent` are left out."""
    found: dict[str, Array] = {}
    for part in parts:
        asked = part.asked
        window = Window(width=asked["width"], top=asked["top"], bottom=asked["bottom"])
        fields = _structured(part.body)
        for name in asked["arrays"]:
            if name in absent:
                continue
            spec = specs[name]
            values = found.setdefault(name, np.full(spec.chip_shape(chip.chip_m), spec.fill_value(), dtype=spec.dtype))
            side = values.shape[-1]
            bottom = min(window.bottom, side)
            for index, band in enumerate(spec.bands):
                column = fields[field_name(name, band)]
                values[index, window.top : bottom] = column[: bottom - window.top, :side]
    return found


def _structured(body: bytes) -> Array:
    if not body.startswith(b"\x93NUMPY"):
        start = body[:40].decode("ascii", "replace")
        raise _failed(Kind.TRANSIENT, f"the answer is no NPY file; it starts with {start!r} and has {len(body)} bytes")
    stream = io.BytesIO(body)
    try:
        values = np.load(stream, allow_pickle=False, max_header_size=1 << 20)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise _failed(Kind.TRANSIENT, f"the answer is cut short or damaged: {error}") from error
    if stream.read(1):
        raise _failed(Kind.WRONG, "the answer has bytes beyond its pixels")
    return np.asarray(values)


def _check_layout(request: PixelRequest, fields: Array) -> None:
    window = request.window
    shape = (window.bottom - window.top, window.width)
    if fields.shape != shape:
        raise _failed(Kind.WRONG, f"asked for {shape} pixels, got {fields.shape}")
    job = request.job
    wanted = {
        field_name(name, band): np.dtype(job.specs[name].dtype)
        for name in request.arrays
        for band in job.specs[name].bands
    }
    if request.check:
        wanted.update(dict.fromkeys(check_fields, np.dtype("int32")))
    found = {name: fields.dtype[name] for name in fields.dtype.names or ()}
    if found.keys() != wanted.keys():
        differing = sorted(found.keys() ^ wanted.keys())
        raise _failed(Kind.WRONG, f"bands differ from what was asked for: {', '.join(differing[:5])}")
    for name, dtype in wanted.items():
        if found[name].newbyteorder("=") != dtype:
            raise _failed(Kind.WRONG, f"{name} should be {dtype}, got {found[name]}")


def _check_position(request: PixelRequest, fields: Array) -> None:
    chip, window = request.job.chip, request.window
    lon_field, lat_field, tag_field = check_fields
    if (fields[tag_field] != chip_tag(chip.chip_id)).any():
        raise _failed(Kind.WRONG, "the answer belongs to another chip")
    x = chip.xmin + (np.arange(window.width) + 0.5) * pixel_m
    y = chip.ymax - (np.arange(window.top, window.bottom) + 0.5) * pixel_m
    to_lonlat = Transformer.from_crs(f"EPSG:{chip.epsg}", "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(*np.meshgrid(x, y))
    turn = 360 * check_scale
    lon_error = (fields[lon_field].astype(np.int64) - np.rint(lon * check_scale) + turn // 2) % turn - turn // 2
    lat_error = fields[lat_field].astype(np.int64) - np.rint(lat * check_scale)
    farthest = max(np.abs(lon_error * np.cos(np.radians(lat))).max(), np.abs(lat_error).max())
    if farthest > check_tolerance:
        raise _failed(Kind.WRONG, f"pixels lie up to {farthest / check_scale * 111_320:.1f} m off the chip's grid")


def _check_values(request: PixelRequest, spec: ArraySpec, values: Array) -> float:
    valid = valid_of(spec, values)
    known = values[valid]
    if known.size and spec.classes and spec.values is Values.CLASSES:
        codes = np.array([item.code for item in spec.classes])
        strange = np.setdiff1d(np.unique(known), codes)
        if strange.size:
            raise _failed(Kind.WRONG, f"{spec.name} has codes that are no class: {strange[:5].tolist()}")
    elif known.size and not (known.min() >= spec.stored_min - 1e-6 and known.max() <= spec.stored_max + 1e-6):
        raise _failed(Kind.WRONG, f"{spec.name} has values outside its range: {known.min()} to {known.max()}")
    fraction = float(valid.any(axis=0).mean())
    promised = request.job.scenes[spec.name].valid_fraction
    whole = request.window.top == 0 and request.window.bottom >= spec.pixels(request.job.chip.chip_m)
    if whole and promised is not None and promised >= promise_floor and fraction == 0:
        raise _failed(Kind.WRONG, f"{spec.name} is all fill where planning promised {promised:.0%}")
    return fraction


def _array_of(spec: ArraySpec, request: PixelRequest, fields: Array) -> Array:
    side = spec.pixels(request.job.chip.chip_m)
    rows = max(0, min(request.window.bottom, side) - request.window.top)
    return np.stack([fields[field_name(spec.name, band)][:rows, :side] for band in spec.bands])


def _failed(kind: Kind, message: str) -> RequestFailed:
    return RequestFailed(Failure(kind=kind, message=message))


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
            else:
                parts = halves(request)
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
        nothing_there = spec.temporal in (Temporal.STATIC, Temporal.YEAR)
        return ArrayStatus.NO_SCENE if nothing_there else ArrayStatus.INVALID
    return status
