"""What comes back for a pixel request: the check that it is what was asked for, and the arrays in it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.recipes import ChipGrid, Window, check_fields, check_scale, chip_tag, pixel_m
from m3etl.io.segments import Part
from m3etl.spec.jobs import ArrayStatus, field_name
from m3etl.spec.modality import ArraySpec, Values, valid_of

if TYPE_CHECKING:
    from m3etl.io.pixels import PixelRequest

Array = npt.NDArray[Any]
promise_floor = 0.5  # where planning promised at least this much, a response without any value is wrong
check_tolerance = 20  # 1e-7 degrees: 0.2 m, far below a pixel and far above rounding


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
        valid[name] = _check_values(request, spec, stacked(spec, fields[:rows, :side]))
    return valid


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


def _check_values(request: PixelRequest, spec: ArraySpec, values: Array) -> float:
    valid = valid_of(spec, values)
    _check_range(spec, values, valid)
    fraction = float(valid.any(axis=0).mean())
    promised = request.job.scenes[spec.name].valid_fraction
    whole = request.window.top == 0 and request.window.bottom >= request.job.chip.pixels(spec)
    if whole and promised is not None and promised >= promise_floor and fraction == 0:
        raise _failed(Kind.WRONG, f"{spec.name} is all fill where planning promised {promised:.0%}")
    return fraction


def _check_range(spec: ArraySpec, values: Array, valid: npt.NDArray[np.bool_]) -> None:
    if spec.classes and spec.values is Values.CLASSES:
        found = np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values[valid])
        strange = np.setdiff1d(found, [item.code for item in spec.classes] + [spec.fill])
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


def _extremes(known: Array) -> str:
    return f"{known.min()} to {known.max()}"


def _failed(kind: Kind, message: str) -> RequestFailed:
    return RequestFailed(Failure(kind=kind, message=message))
