"""The lattice: per UTM zone the grid of cells whose corners are multiples of the cell size; which zone a cell is of.

Arrays are one-dimensional and of equal length. Names say the axis order: `lonlat` is (longitude, latitude) in
degrees, `xy` is (easting, northing) in metres of the cell's own UTM zone (EPSG 326zz north, 327zz south with its
false northing of 10,000 km).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyproj

from m3etl.errors import InputError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

south_limit_lat = -80.0
north_limit_lat = 84.0
false_northing_m = 10_000_000.0
no_zone = 0

_chip_id_pattern = re.compile(r"(\d{5})-(\d{2,})-(\d{4,})-(\d{4,})")
_zone_edges_lon = np.arange(-180.0, 180.0, 6.0)
_metres_per_degree = 110_574.0  # shortest degree of latitude on WGS 84, at the equator
_smallest_radius_m = 6_335_439.0  # smallest radius of curvature on WGS 84


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Lattice cells of one size; `epsg`, `column`, `row`: (N,) int64, south-west corner = (column, row) x `cell_m`."""

    cell_m: int
    epsg: Integers
    column: Integers
    row: Integers

    def __post_init__(self) -> None:
        check_cell_size(self.cell_m)
        if not self.epsg.shape == self.column.shape == self.row.shape:
            raise ValueError(f"unequal lengths: {self.epsg.shape}, {self.column.shape}, {self.row.shape}")

    def __len__(self) -> int:
        return len(self.epsg)

    def __getitem__(self, selection: npt.NDArray[np.bool_] | Integers | slice) -> Cells:
        return Cells(
            cell_m=self.cell_m, epsg=self.epsg[selection], column=self.column[selection], row=self.row[selection]
        )

    @property
    def key(self) -> Integers:
        """One number per cell, unique and ordered by (epsg, column, row)."""
        return ((self.epsg - 32600) << 40) | (self.column << 20) | self.row

    @property
    def bounds_xy(self) -> tuple[Floats, Floats, Floats, Floats]:
        """xmin, ymin, xmax, ymax in metres."""
        west, south = (self.column * self.cell_m).astype(np.float64), (self.row * self.cell_m).astype(np.float64)
        return west, south, west + self.cell_m, south + self.cell_m

    @property
    def centre_xy(self) -> tuple[Floats, Floats]:
        west, south, east, north = self.bounds_xy
        return (west + east) / 2, (south + north) / 2

    @property
    def centre_lonlat(self) -> tuple[Floats, Floats]:
        return lonlat_of_xy(self.epsg, *self.centre_xy)

    def chip_ids(self) -> list[str]:
        """`EPSG-metres-column-row`, column and row with at least four digits."""
        rows = zip(self.epsg.tolist(), self.column.tolist(), self.row.tolist(), strict=True)
        return [f"{epsg}-{self.cell_m:04d}-{column:04d}-{row:04d}" for epsg, column, row in rows]

    def affine(self, index: int, gsd_m: float) -> tuple[float, float, float, float, float, float]:
        """(scale x, 0, west, 0, -scale y, north) of the raster of one cell with pixels of `gsd_m`, upper row first."""
        west, north = float(self.column[index] * self.cell_m), float((self.row[index] + 1) * self.cell_m)
        return (gsd_m, 0.0, west, 0.0, -gsd_m, north)

    def corners_lonlat(self) -> tuple[Floats, Floats]:
        """Longitude and latitude, each (N, 4): south-west, south-east, north-east, north-west.

        Longitudes lie within 180 degrees of the centre's, so those of a cell on the antimeridian may pass +-180.
        """
        west, south, east, north = self.bounds_xy
        x, y = np.stack([west, east, east, west], axis=1), np.stack([south, south, north, north], axis=1)
        lon, lat = lonlat_of_xy(np.repeat(self.epsg, 4), x.ravel(), y.ravel())
        return self._unwrapped(lon.reshape(-1, 4)), lat.reshape(-1, 4)

    def belongs(self) -> Flags:
        """True where the cell's centre lies in its own zone and hemisphere (half-open, see `zone_of_lonlat`)."""
        lon, lat = self.centre_lonlat
        return self._zone_matches(lon, lat) & self._hemisphere_matches(self.centre_xy[1], self.centre_xy[1])

    def wholly_inside(self, margin_m: float = 0.0, centre_lonlat: tuple[Floats, Floats] | None = None) -> Flags:
        """True where the whole cell, grown by `margin_m` on every side, lies in its own zone and hemisphere.

        Such cells of different zones never overlap. Tested on the longitude and latitude box of the corners and edge
        midpoints, grown by how far an edge can bulge between them. `centre_lonlat`: the centres, where they are known.
        """
        _, south, _, north = self.bounds_xy
        inside = self._hemisphere_matches(south - margin_m, north + margin_m)
        lon, lat = self.centre_lonlat if centre_lonlat is None else centre_lonlat
        reach_lat = (0.7072 * self.cell_m + 1.4143 * margin_m) * 1.01 / _metres_per_degree
        reach_lon = reach_lat / np.maximum(np.cos(np.radians(np.abs(lat) + reach_lat)), 1e-3)
        certain = self._in_regular_zone(lon, lat, reach_lon, reach_lat)
        doubtful = np.flatnonzero(inside & ~certain)
        if len(doubtful):
            inside[doubtful] = self[doubtful]._box_test(margin_m)
        return inside

    def _in_regular_zone(self, lon: Floats, lat: Floats, reach_lon: Floats, reach_lat: float) -> Flags:
        """True where a box around the centre is surely inside a zone of six degrees, away from the exceptions."""
        west = 6.0 * (self.epsg % 100) - 186.0
        regular = (lat + reach_lat < 56.0) | (lon + reach_lon < 0.0) | (lon - reach_lon > 42.0)
        inside = (lon - reach_lon >= west) & (lon + reach_lon < west + 6.0)
        reachable = (lat - reach_lat >= south_limit_lat) & (lat + reach_lat <= north_limit_lat)
        return np.asarray(regular & inside & reachable)

    def _box_test(self, margin_m: float) -> Flags:
        west, south, east, north = self.bounds_xy
        west, south, east, north = west - margin_m, south - margin_m, east + margin_m, north + margin_m
        middle_x, middle_y = (west + east) / 2, (south + north) / 2
        x = np.stack([west, middle_x, east, east, east, middle_x, west, west], axis=1)
        y = np.stack([south, south, south, middle_y, north, north, north, middle_y], axis=1)
        lon, lat = lonlat_of_xy(np.repeat(self.epsg, 8), x.ravel(), y.ravel())
        lon, lat = self._unwrapped(lon.reshape(-1, 8)), lat.reshape(-1, 8)
        # Sagitta of a parallel over half an edge at 84 degrees, where parallels bend most.
        bulge_lat = (self.cell_m / 2 + margin_m) ** 2 / (8 * _smallest_radius_m) * 9.6 / _metres_per_degree
        bulge_lon = bulge_lat / np.cos(np.radians(np.minimum(np.abs(lat).max(axis=1), 89.0)))
        return self._box_matches(
            lon.min(axis=1) - bulge_lon,
            lon.max(axis=1) + bulge_lon,
            lat.min(axis=1) - bulge_lat,
            lat.max(axis=1) + bulge_lat,
        )

    def _box_matches(self, west: Floats, east: Floats, south: Floats, north: Floats) -> Flags:
        matches = (west >= -180.0) & (east < 180.0)
        for lon in (west, east):
            for lat in (south, north):
                matches &= self._zone_matches(lon, lat)
        return matches

    def _zone_matches(self, lon: Floats, lat: Floats) -> Flags:
        return np.asarray(zone_of_lonlat(lon, lat) == self.epsg % 100)

    def _hemisphere_matches(self, lowest_y: Floats, highest_y: Floats) -> Flags:
        # The equator is a straight grid line in every zone, so northings decide exactly where latitudes would round.
        south = (lowest_y < false_northing_m) & (highest_y <= false_northing_m)
        matches: Flags = np.where(self.epsg >= 32700, south, lowest_y >= 0.0)
        return matches

    def _unwrapped(self, lon: Floats) -> Floats:
        """Longitudes turned to within 180 degrees of the centre; others keep every bit, so neighbours share corners."""
        crossing = np.flatnonzero(np.ptp(lon, axis=1) > 180.0) if len(lon) else np.zeros(0, dtype=np.int64)
        if not len(crossing):
            return lon
        turned, there = lon.copy(), lon[crossing]
        away = there - self[crossing].centre_lonlat[0][:, None]
        turned[crossing] = np.where(away > 180.0, there - 360.0, np.where(away < -180.0, there + 360.0, there))
        return turned


def check_cell_size(cell_m: int) -> None:
    """ValueError unless a cell is a whole, positive number of 10 m pixels and small beside its zone."""
    if cell_m % 10 or not 10 <= cell_m <= 50_000:
        raise ValueError(f"the cell size must be a multiple of 10 m from 10 m to 50 km, not {cell_m} m")


def zone_of_lonlat(lon: npt.ArrayLike, lat: npt.ArrayLike) -> Integers:
    """MGRS zone number 1-60 with the exceptions of Norway (32V) and Svalbard (31X, 33X, 35X, 37X); 0 outside 80S-84N.

    Half-open: the west edge of a zone and the south edge of a band belong to it; 84N itself belongs to band X.
    """
    lat = np.asarray(lat, dtype=np.float64)
    finite = np.isfinite(lon)
    lon = np.where(finite, lon, 0.0)
    lon = np.where((lon >= -180.0) & (lon < 180.0), lon, (lon + 180.0) % 360.0 - 180.0)
    # Comparing with the edges is exact where dividing would round a longitude just west of an edge onto it.
    zone = np.searchsorted(_zone_edges_lon, lon, side="right")
    zone = np.where((lat >= 56.0) & (lat < 64.0) & (lon >= 3.0) & (lon < 12.0), 32, zone)
    svalbard = np.select([lon < 9.0, lon < 21.0, lon < 33.0], [31, 33, 35], 37)
    zone = np.where((lat >= 72.0) & (lon >= 0.0) & (lon < 42.0), svalbard, zone)
    reachable = (lat >= south_limit_lat) & (lat <= north_limit_lat) & finite
    return np.where(reachable, zone, no_zone)


def epsg_of_lonlat(lon: npt.ArrayLike, lat: npt.ArrayLike) -> Integers:
    """326zz for latitude >= 0, 327zz below; 0 outside 80S-84N."""
    zone = zone_of_lonlat(lon, lat)
    hemisphere = np.where(np.asarray(lat) >= 0.0, 32600, 32700)
    return np.where(zone == no_zone, no_zone, hemisphere + zone)


def xy_of_lonlat(epsg: Integers, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Easting and northing in the UTM zone `epsg` of each point, in metres."""
    return _transformed(epsg, lon, lat, inverse=False)


def lonlat_of_xy(epsg: Integers, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Longitude in [-180, 180) and latitude of each easting and northing."""
    lon, lat = _transformed(epsg, x, y, inverse=True)
    return np.where(lon >= 180.0, lon - 360.0, lon), lat


def cells_of_lonlat(lon: Floats, lat: Floats, cell_m: int) -> tuple[Cells, Flags]:
    """The cell of each point in the lattice of the point's own zone, and which points are within 80S-84N and finite.

    The cell's centre may lie in a neighbouring zone: ask `belongs` or `wholly_inside`. Cells of unreachable points
    are meaningless (zone 31 north, column and row 0).
    """
    check_cell_size(cell_m)
    epsg = epsg_of_lonlat(lon, lat)
    reachable = epsg != no_zone
    epsg = np.where(reachable, epsg, 32631)
    x, y = xy_of_lonlat(epsg, np.where(reachable, lon, 3.0), np.where(reachable, lat, 0.0))
    column = np.where(reachable, np.floor(x / cell_m), 0).astype(np.int64)
    row = np.where(reachable, np.floor(y / cell_m), 0).astype(np.int64)
    return Cells(cell_m=cell_m, epsg=epsg, column=column, row=np.maximum(row, 0)), reachable


def parse_chip_id(chip_id: str) -> Cells:
    """The one cell that an id names. Raises InputError for anything that `chip_ids` would not write."""
    match = _chip_id_pattern.fullmatch(chip_id)
    problem = "" if match else "it is not of the form 32632-1280-0429-4956 (EPSG, cell metres, column, row)"
    if match:
        epsg, cell_m, column, row = (int(group) for group in match.groups())
        if not (32601 <= epsg <= 32660 or 32701 <= epsg <= 32760):
            problem = f"EPSG {epsg} is no UTM zone"
        elif cell_m % 10 or not 10 <= cell_m <= 50_000:
            problem = f"{cell_m} m is no cell size"
        else:
            cell = Cells(cell_m=cell_m, epsg=np.array([epsg]), column=np.array([column]), row=np.array([row]))
            if cell.chip_ids() == [chip_id]:
                return cell
            problem = f"it would be written {cell.chip_ids()[0]}"
    raise InputError(f"{chip_id!r} is no chip id: {problem}", hint="Take ids from the column chip_id of chips.parquet.")


def _transformed(epsg: Integers, first: Floats, second: Floats, *, inverse: bool) -> tuple[Floats, Floats]:
    """Project per zone; grouping keeps it to one call of PROJ a zone."""
    result = np.empty((2, len(epsg)), dtype=np.float64)
    if len(epsg) == 0:
        return result[0], result[1]
    order = np.argsort(epsg, kind="stable")
    codes, starts = np.unique(epsg[order], return_index=True)
    for code, chosen in zip(codes.tolist(), np.split(order, starts[1:]), strict=True):
        result[:, chosen] = _projection(code)(first[chosen], second[chosen], inverse=inverse)
    return result[0], result[1]


@lru_cache(maxsize=128)
def _projection(epsg: int) -> pyproj.Proj:
    """UTM of one zone. `Proj` takes longitude first and is quicker to make than a transformer from EPSG codes."""
    hemisphere = "+south" if epsg >= 32700 else ""
    return pyproj.Proj(f"+proj=utm +zone={epsg % 100} {hemisphere} +datum=WGS84 +units=m +no_defs".replace("  ", " "))
