"""ARIA S1-GUNW products, read by windows from disk or over HTTP: only the pieces of a file that a chip needs are
fetched. Both layouts are read: version 2 (no corrections) and version 3 (ionosphere, tides, troposphere).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.compute.interferometry import at_height, correct_phase, mask_phase, on_grid, reference_phase
from m3etl.errors import InputError, MissingExtraError, RemoteError

Array = npt.NDArray[Any]
block_bytes = 64 * 1024  # of one range request; chunks of a product are a few hundred kilobytes
cached_bytes = 8 * 1024 * 1024  # decoded, of each variable of an open product: neighbouring chips share chunks
_name = re.compile(
    r"S1-GUNW(?:_CUSTOM)?-(?P<direction>[AD])-(?P<look>[RL])-(?P<track>\d{3})-tops-(?P<reference>\d{8})_"
    r"(?P<secondary>\d{8})-(?P<time>\d{6})-(?P<place>[0-9A-Z_]+)-[A-Z0-9]{2}-[0-9a-f]{4}-v(?P<version>\d+_\d+(?:_\d+)?)"
)
_grids = "science/grids"
_data = f"{_grids}/data"
_geometry = f"{_grids}/imagingGeometry"
_derived = f"{_grids}/corrections/derived"
_external = f"{_grids}/corrections/external"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What a product's name says: orbit direction, relative orbit, the newer (reference) and older date, its version.

    days: between the dates, never negative.
    """

    name: str
    direction: str
    track: int
    reference: datetime
    secondary: datetime
    version: tuple[int, ...]

    @property
    def days(self) -> int:
        return (self.reference.date() - self.secondary.date()).days

    @property
    def key(self) -> tuple[str, int, str, str]:
        """The same pair, whoever processed it and whichever frame it was cut to."""
        return self.direction, self.track, f"{self.reference:%Y%m%d}", f"{self.secondary:%Y%m%d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A window of a product on its own grid of degrees: arrays (y, x), latitudes descending, NaN where unknown.

    phase: radians, corrected, masked and referenced per component; component: Snaphu's label; coherence 0 to 1;
    amplitude; geometry: incidence, look and azimuth angles in degrees, baselines in metres, at the terrain's height.
    corrections: names of those that were applied.
    """

    pair: Pair
    latitude: Array
    longitude: Array
    phase: Array
    coherence: Array
    amplitude: Array
    component: Array
    geometry: Mapping[str, Array]
    corrections: tuple[str, ...]


def parse_name(name: str) -> Pair:
    """The pair of a product's file name. InputError for anything else."""
    found = _name.search(Path(name.partition("?")[0]).name)
    if found is None:
        raise InputError(
            f"{name} is not the name of a S1-GUNW product",
            hint="Names look like S1-GUNW-A-R-064-tops-20200112_20191231-015040-00119W_00033N-PP-9c1d-v2_0_6.nc.",
        )
    clock = found["time"]

    def moment(day: str) -> datetime:
        return datetime.strptime(day + clock, "%Y%m%d%H%M%S").replace(tzinfo=UTC)

    return Pair(
        name=found.group(),
        direction=found["direction"],
        track=int(found["track"]),
        reference=moment(found["reference"]),
        secondary=moment(found["secondary"]),
        version=tuple(int(part) for part in found["version"].split("_")),
    )


class Product:
    """One open product. `read` gives a window; `footprint` where it has data."""

    def __init__(self, file: Any, pair: Pair) -> None:
        self._file = file
        self.pair = pair
        self._latitude: Array = file[f"{_data}/latitude"][:]
        self._longitude: Array = file[f"{_data}/longitude"][:]
        if self._latitude[0] < self._latitude[-1]:
            raise InputError(f"{pair.name}: latitudes ascend; a S1-GUNW product has them descending")

    @property
    def footprint(self) -> BaseGeometry:
        """Lon/lat polygon in which the product has data."""
        raw = self._file["productBoundingBox"][:]
        text = raw.tobytes().decode("ascii", "ignore").rstrip("\x00 ")
        polygon: BaseGeometry = shapely.from_wkt(text)
        return polygon

    def read(
        self, bounds_lonlat: tuple[float, float, float, float], *, elevation_m: float = 0.0, margin: int = 2
    ) -> Patch | None:
        """The window that covers west, south, east, north with `margin` pixels around; None where it has none.

        elevation_m: mean height of the terrain, at which geometry and corrections are taken.
        """
        west, south, east, north = bounds_lonlat
        rows = _within(-self._latitude, -north, -south, margin)
        columns = _within(self._longitude, west, east, margin)
        if rows is None or columns is None:
            return None
        latitude, longitude = self._latitude[rows], self._longitude[columns]
        window = {
            name: _floats(self._file[f"{_data}/{name}"], rows, columns)
            for name in ("unwrappedPhase", "coherence", "amplitude", "connectedComponents")
        }
        component, coherence = window["connectedComponents"], window["coherence"]
        phase = mask_phase(window["unwrappedPhase"], component, coherence)
        to_lat, to_lon = np.meshgrid(latitude, longitude, indexing="ij")
        height = np.full(to_lat.shape, elevation_m)
        corrections = self._corrections(to_lat, to_lon, height)
        phase = reference_phase(correct_phase(phase, corrections), component, coherence)
        known = np.isfinite(phase)
        return Patch(
            pair=self.pair,
            latitude=latitude,
            longitude=longitude,
            phase=phase,
            coherence=np.where(coherence > 0, coherence, np.nan),
            amplitude=np.where(window["amplitude"] > 0, window["amplitude"], np.nan),
            component=np.where(known, component, np.nan),
            geometry=self._geometry(to_lat, to_lon, height),
            corrections=tuple(corrections),
        )

    def _geometry(self, to_lat: Array, to_lon: Array, height: Array) -> dict[str, Array]:
        group = self._file[_geometry]
        heights, y, x = (group[name][:] for name in ("heightsMeta", "latitudeMeta", "longitudeMeta"))
        names = ("incidenceAngle", "lookAngle", "azimuthAngle", "perpendicularBaseline", "parallelBaseline")
        return {
            name: at_height(on_grid(group[name][:], y, x, to_lat, to_lon), heights, height)
            for name in names
            if name in group
        }

    def _corrections(self, to_lat: Array, to_lon: Array, height: Array) -> dict[str, Array]:
        """Radians to subtract, by name; what a version 2 product holds as text is not there."""
        found = {}
        ionosphere = self._file.get(f"{_derived}/ionosphere/ionosphere")
        if ionosphere is not None and ionosphere.ndim == 2:
            group = ionosphere.parent
            y, x = _axis(group, "latitude"), _axis(group, "longitude")
            found["ionosphere"] = on_grid(ionosphere[:], y, x, to_lat, to_lon)
        tide = self._difference(f"{_external}/tides/solidEarth", ("solidEarthTide",), to_lat, to_lon, height)
        if tide is not None:
            found["solid earth tide"] = tide
        models = self._file.get(f"{_external}/troposphere")
        for model in sorted(models) if models is not None else ():
            parts = ("troposphereWet", "troposphereHydrostatic")
            delay = self._difference(f"{_external}/troposphere/{model}", parts, to_lat, to_lon, height)
            if delay is not None:
                found[f"troposphere {model}"] = delay
                break
        return found

    def _difference(
        self, path: str, names: tuple[str, ...], to_lat: Array, to_lon: Array, height: Array
    ) -> Array | None:
        """Reference less secondary of the sum of 3D fields, at the terrain's height; None where they are not there."""
        total = None
        for sign, date in ((1.0, "reference"), (-1.0, "secondary")):
            for name in names:
                field = self._file.get(f"{path}/{date}/{name}")
                if field is None or field.ndim != 3:
                    return None
                y, x = _axis(field.parent, "latitudeMeta"), _axis(field.parent, "longitudeMeta")
                heights = _axis(field.parent, "heightsMeta")
                value = sign * at_height(on_grid(field[:], y, x, to_lat, to_lon), heights, height)
                total = value if total is None else total + value
        return total


def _axis(group: Any, name: str) -> Array:
    """A coordinate beside the variable, or of the imaging geometry that the products share."""
    while group is not None and group.name != "/":
        if name in group:
            values: Array = group[name][:]
            return values
        group = group.parent
    shared: Array = group[f"{_geometry}/{name}"][:]
    return shared


def _within(values: Array, low: float, high: float, margin: int) -> slice | None:
    """Indices of ascending values that cover [low, high], with a margin; None where they do not meet."""
    if high < values[0] or low > values[-1]:
        return None
    first = max(0, int(np.searchsorted(values, low, "right")) - 1 - margin)
    last = min(len(values), int(np.searchsorted(values, high, "left")) + 1 + margin)
    return slice(first, last)


def _floats(variable: Any, rows: slice, columns: slice) -> Array:
    values: Array = np.asarray(variable[rows, columns], dtype=np.float64)
    return values


@contextmanager
def open_gunw(location: str, *, headers: Mapping[str, str] | None = None) -> Iterator[Product]:
    """A product by path or URL. Over HTTP only the blocks that are read are fetched, redirects followed; credentials of
    Earthdata come from ~/.netrc or `headers` (a bearer token), and go to the host they are for.

    Raises InputError for a file that is no product, RemoteError where a server refuses or the file ends too soon.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("reading S1-GUNW products needs h5py", hint="pip install 'm3etl[insar]'") from error
    pair = parse_name(location)
    try:
        if "://" in location:
            from m3etl.io.ranges import open_ranges

            with (
                open_ranges(location, headers=headers or {}, block_bytes=block_bytes) as stream,
                h5py.File(stream, "r", rdcc_nbytes=cached_bytes) as file,
            ):
                yield Product(file, pair)
        else:
            with h5py.File(location, "r", rdcc_nbytes=cached_bytes) as file:
                yield Product(file, pair)
    except FileNotFoundError as error:
        raise InputError(f"there is no product at {location}") from error
    except (OSError, KeyError) as error:
        kind = RemoteError if "://" in location else InputError
        raise kind(f"{location} could not be read as a S1-GUNW product: {error}") from error


def choose_pairs(pairs: list[Pair], *, least_days: int = 0, most_days: int = 10_000) -> list[Pair]:
    """Pairs whose dates are [least, most] days apart, one for each pair of dates: the newest version, sorted by days.

    Versions of several processings of a pair never mix; equal versions go by name.
    """
    best: dict[tuple[str, int, str, str], Pair] = {}
    for pair in sorted(pairs, key=lambda item: (item.version, item.name)):
        if least_days <= pair.days <= most_days:
            best[pair.key] = pair
    return sorted(best.values(), key=lambda item: (item.days, item.name))
