"""What comes back for a pixel request: the check that it is what was asked for, and the arrays in it."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from m3etl.io.blocks import place_in
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.recipes import check_fields, check_scale, chip_tag
from m3etl.io.segments import Part
from m3etl.spec.chipgrid import ChipGrid, Window, pixel_m
from m3etl.spec.jobs import ArrayScenes, ArrayStatus, field_name
from m3etl.spec.modality import ArraySpec, Values, valid_of

if TYPE_CHECKING:
    from m3etl.io.pixels import PixelJob, PixelRequest

Array = npt.NDArray[Any]
promise_floor = 0.5  # where planning promised at least this much, a response without any value is wrong
promise_tolerance = 0.25  # planning measures masks at 60 m, whose rim is a fifth of a small chip
check_tolerance = 20  # 1e-7 degrees: 0.2 m, far below a pixel and far above rounding
# NumPy reads headers by ast.literal_eval, in which CPython does not bear two threads (SystemError, cpython#106905).
_one_header = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one answer brought for one chip: the part to be stored, valid fraction by array."""

    job: PixelJob
    part: Part
    valid: Mapping[str, float]


def take_answer(request: PixelRequest, body: bytes) -> tuple[Piece, ...]:
    """An answer that is what was asked for, chip by chip; RequestFailed for anything else."""
    valid = read_answer(request, body)
    if not request.members:
        return (Piece(job=request.job, part=Part(asked=request.asked(), body=body), valid=valid),)
    fields = structured(body)
    return tuple(_cut(request, job, fields) for job in request.members)


def read_answer(request: PixelRequest, body: bytes) -> dict[str, float]:
    """Valid fraction of each array in an answer that is what was asked for; RequestFailed for anything else."""
    fields = structured(body)
    _check_layout(request, fields)
    if request.check:
        _check_position(request, fields)
    valid = {}
    for name in request.arrays:
        spec = request.job.specs[name]
        side = request.job.chip.pixels(spec)
        rows = max(0, min(request.window.bottom, side) - request.window.top)
        values = stacked(spec, fields[:rows, :side])
        seen = valid_of(spec, values)
        _check_range(spec, values, seen)
        valid[name] = float(seen.any(axis=0).mean()) if rows else 0.0
        if request.window.top == 0 and request.window.bottom >= side:
            _check_promises(request.job, spec, seen)
    return valid


def _cut(request: PixelRequest, job: PixelJob, fields: Array) -> Piece:
    """One chip out of a block's answer, as if it had been asked for alone (without a check band)."""
    row, column = place_in(request.job.chip, job.chip)
    sides = {name: job.chip.pixels(job.specs[name]) for name in request.arrays}
    width = max(sides.values())
    names = [field_name(name, band) for name in request.arrays for band in job.specs[name].bands]
    dtype = np.dtype([(name, fields.dtype[name]) for name in names])
    chip = np.zeros((width, width), dtype=dtype)
    valid = {}
    for name, side in sides.items():
        spec = job.specs[name]
        rows, columns = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        for band in spec.bands:
            chip[field_name(name, band)][:side, :side] = fields[field_name(name, band)][rows, columns]
        seen = valid_of(spec, stacked(spec, chip[:side, :side]))
        valid[name] = float(seen.any(axis=0).mean())
        _check_promises(job, spec, seen)
    stream = io.BytesIO()
    np.save(stream, chip)
    asked = {"arrays": list(request.arrays), "width": width, "top": 0, "bottom": width, "check": False}
    return Piece(job=job, part=Part(asked=asked, body=stream.getvalue()), valid=valid)


def arrays_of(
    parts: Sequence[Part], specs: Mapping[str, ArraySpec], chip: ChipGrid, absent: Mapping[str, ArrayStatus]
) -> dict[str, Array]:
    """The arrays of one landed chip from its parts, of stored dtype and chip_shape; arrays in `absent` are left out."""
    found: dict[str, Array] = {}
    for part in parts:
        asked = part.asked
        window = Window(width=asked["width"], top=asked["top"], bottom=asked["bottom"])
        fields = structured(part.body)
        for name in asked["arrays"]:
            if name in absent:
                continue
            spec = specs[name]
            values = found.setdefault(name, np.full(spec.chip_shape(chip.chip_m), spec.fill_value(), dtype=spec.dtype))
            side = values.shape[-1]
            bottom = min(window.bottom, side)
            values[:, window.top : bottom] = stacked(spec, fields[: bottom - window.top, :side])
    return found


def structured(body: bytes) -> Array:
    """The structured array (row, column) of an NPY body, read-only. Raises RequestFailed for anything else."""
    if not body.startswith(b"\x93NUMPY"):
        start = body[:40].decode("ascii", "replace")
        raise _failed(Kind.TRANSIENT, f"the answer is no NPY file; it starts with {start!r} and has {len(body)} bytes")
    start_of_header = 10 if body[6:7] == b"\x01" else 12
    length = int.from_bytes(body[8:start_of_header], "little")
    begin = start_of_header + length
    try:
        shape, fortran, dtype = _header(bytes(body[:begin]))
        count = math.prod(shape)
        values = np.frombuffer(body, dtype=dtype, count=count, offset=begin)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise _failed(Kind.TRANSIENT, f"the answer is cut short or damaged: {error}") from error
    if begin + count * dtype.itemsize != len(body):
        raise _failed(Kind.WRONG, "the answer has bytes beyond its pixels")
    return values.reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=256)
def _header(text: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(text)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"NPY version {version}")
    with _one_header:
        shape, fortran, dtype = readers[version](stream, max_header_size=1 << 20)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, fortran, dtype


def stacked(spec: ArraySpec, fields: Array) -> Array:
    """The bands of one array out of a structured array: (band, y, x), contiguous."""
    names = [field_name(spec.name, band) for band in spec.bands]
    dtype = fields.dtype
    kinds = {dtype[name] for name in names}
    offsets = [dtype.fields[name][1] for name in names] if dtype.fields else []
    size = dtype[names[0]].itemsize
    if len(kinds) == 1 and offsets == list(range(offsets[0], offsets[0] + size * len(names), size)):
        # Bands that lie side by side are one copy, not one for each.
        together = np.dtype(
            {"names": ["v"], "formats": [(kinds.pop(), len(names))], "offsets": offsets[:1], "itemsize": dtype.itemsize}
        )
        pixels = fields.view(together)["v"].reshape(*fields.shape, len(names))
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    return np.stack([fields[name] for name in names])


def _check_layout(request: PixelRequest, fields: Array) -> None:
    window = request.window
    shape = (window.bottom - window.top, window.width)
    if fields.shape != shape:
        raise _failed(Kind.WRONG, f"asked for {shape} pixels, got {fields.shape}")
    specs = request.job.specs
    bands = tuple((name, specs[name].bands, specs[name].dtype) for name in request.arrays)
    problem = _layout_problem(fields.dtype, bands, request.check)
    if problem:
        raise _failed(Kind.WRONG, problem)


@lru_cache(maxsize=256)
def _layout_problem(dtype: np.dtype[Any], arrays: tuple[tuple[str, tuple[str, ...], str], ...], check: bool) -> str:
    wanted = {field_name(name, band): np.dtype(stored) for name, bands, stored in arrays for band in bands}
    if check:
        wanted.update(dict.fromkeys(check_fields, np.dtype("int32")))
    found = {name: dtype[name] for name in dtype.names or ()}
    if found.keys() != wanted.keys():
        differing = sorted(found.keys() ^ wanted.keys())
        return f"bands differ from what was asked for: {', '.join(differing[:5])}"
    for name, stored in wanted.items():
        if found[name].newbyteorder("=") != stored:
            return f"{name} should be {stored}, got {found[name]}"
    return ""


def _check_position(request: PixelRequest, fields: Array) -> None:
    chip, window = request.job.chip, request.window
    lon_field, lat_field, tag_field = check_fields
    if (fields[tag_field] != chip_tag(chip.chip_id)).any():
        raise _failed(Kind.WRONG, "the answer belongs to another chip")
    x = chip.xmin + (np.arange(window.width) + 0.5) * pixel_m
    y = chip.ymax - (np.arange(window.top, window.bottom) + 0.5) * pixel_m
    lon, lat = _to_lonlat(chip.epsg).transform(*np.meshgrid(x, y))
    turn = 360 * check_scale
    lon_error = (fields[lon_field].astype(np.int64) - np.rint(lon * check_scale) + turn // 2) % turn - turn // 2
    lat_error = fields[lat_field].astype(np.int64) - np.rint(lat * check_scale)
    farthest = max(np.abs(lon_error * np.cos(np.radians(lat))).max(), np.abs(lat_error).max())
    if farthest > check_tolerance:
        raise _failed(Kind.WRONG, f"pixels lie up to {farthest / check_scale * 111_320:.1f} m off the chip's grid")


@lru_cache(maxsize=128)
def _to_lonlat(epsg: int) -> Transformer:
    return Transformer.from_crs(f"EPSG:{epsg}", "EPSG:4326", always_xy=True)


def _check_promises(job: PixelJob, spec: ArraySpec, seen: npt.NDArray[np.bool_]) -> None:
    """seen: (band, y, x) whether there is a value; of every period what was promised of it."""
    scenes = job.scenes[spec.name]
    _check_promise(spec.name, scenes, float(seen.any(axis=0).mean()))
    by_period = seen.reshape(spec.with_periods(seen.shape))
    for place, period in enumerate(spec.periods if scenes.periods else ()):
        _check_promise(f"{spec.name} of {period}", scenes.periods[period], float(by_period[place].any(axis=0).mean()))


def _check_promise(what: str, scenes: ArrayScenes, fraction: float) -> None:
    promised = scenes.valid_fraction
    if promised is None:
        return
    # Slices of one pass may overlap, so that together they promise more than they show.
    tolerance = promise_tolerance if len(scenes.scene_ids) == 1 else 1.0
    if (promised >= promise_floor and fraction == 0) or fraction < promised - tolerance:
        shown = "is all fill" if fraction == 0 else f"shows {fraction:.0%}"
        raise _failed(Kind.WRONG, f"{what} {shown} where planning promised {promised:.0%}")


def _check_range(spec: ArraySpec, values: Array, valid: npt.NDArray[np.bool_]) -> None:
    if spec.classes and spec.values is Values.CLASSES:
        codes = tuple(item.code for item in spec.classes)
        if values.dtype == np.uint8:
            strange = np.flatnonzero(np.bincount(values.ravel(), minlength=256) * _is_strange(codes, spec.fill))
        else:
            strange = np.setdiff1d(values[valid], codes)
        if strange.size:
            raise _failed(Kind.WRONG, f"{spec.name} has codes that are no class: {strange[:5].tolist()}")
        return
    low, high = spec.stored_min - 1e-6, spec.stored_max + 1e-6
    if values.dtype.kind in "iu":  # compared as integers: as quick as it gets
        info = np.iinfo(values.dtype)
        low, high = max(math.ceil(low), int(info.min)), min(math.floor(high), int(info.max))
    outside = ((values < low) | (values > high)) & valid
    if outside.any():
        raise _failed(Kind.WRONG, f"{spec.name} has values outside its range: {_extremes(values[valid])}")


@lru_cache(maxsize=64)
def _is_strange(codes: tuple[int, ...], fill: int | None) -> npt.NDArray[np.bool_]:
    strange = np.ones(256, dtype=np.bool_)
    strange[[code for code in (*codes, fill) if code is not None]] = False
    return strange


def _extremes(known: Array) -> str:
    return f"{known.min()} to {known.max()}"


def _failed(kind: Kind, message: str) -> RequestFailed:
    return RequestFailed(Failure(kind=kind, message=message))
