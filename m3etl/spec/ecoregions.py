"""The ecoregions as the plan uses them: which one a point lies in, how large each is, and random points inside.

Geometry is longitude/latitude in degrees; edges are straight lines there. Polygons are cut into small pieces once, so
that both drawing (few misses in the bounding boxes) and lookup (short boundaries) are quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.errors import InputError
from m3etl.spec.biomes import biome_names, names_outside_biomes

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]

earth_radius_km = 6371.0072  # authalic sphere of WGS 84
_eccentricity = 0.0818191908426215
_piece_coordinates = 48  # cut until a piece has at most so many vertices ...
_piece_fill = 0.35  # ... and fills so much of its box,
_piece_smallest = 0.05  # or its box is so many degrees small
_cut_levels = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecoregions:
    """The ecoregions of the 14 biomes in the order of their ids, and their pieces.

    `eco_id`, `biome` (0-13), `area_km2`: (E,); `name`, `realm`: E strings. `pieces`: (P,) prepared polygons, `owner`:
    (P,) index of the ecoregion of a piece, ascending; `piece_box`: (P, 4) west, sine of south, east, sine of north;
    `piece_edges`: (P + 1,) running sum of the areas of these boxes. Where polygons overlap, the lowest id owns the
    point.
    """

    eco_id: Integers
    name: tuple[str, ...]
    biome: Integers
    realm: tuple[str, ...]
    area_km2: Floats
    pieces: Geometries
    owner: Integers
    piece_box: Floats
    piece_edges: Floats
    tree: shapely.STRtree

    def __len__(self) -> int:
        return len(self.eco_id)

    def lookup(self, lon: Floats, lat: Floats) -> Integers:
        """Index of the ecoregion of each point, -1 where there is none (sea, inland ice)."""
        found = np.full(len(lon), len(self), dtype=np.int64)
        for start in range(0, len(lon), 200_000):
            part = slice(start, start + 200_000)
            point, piece = self.tree.query(shapely.points(lon[part], lat[part]), predicate="intersects")
            np.minimum.at(found[part], point, self.owner[piece])
        return np.where(found == len(self), -1, found)

    def draw(self, index: Integers, uniforms: Floats) -> tuple[Floats, Floats, Flags]:
        """One equal-area random point for each ecoregion `index` from three uniform numbers each, (N, 3).

        Returns longitude, latitude and whether the point hit the ecoregion; a miss is to be drawn again. Uniform in
        longitude and sine of latitude over the boxes of the pieces, so hits are uniform over the ecoregion's area on
        the sphere.
        """
        edges = self.piece_edges
        span = np.searchsorted(self.owner, np.arange(len(self) + 1))
        first, after = span[index], span[index + 1]
        position = edges[first] + uniforms[:, 0] * (edges[after] - edges[first])
        piece = np.clip(np.searchsorted(edges, position, side="right") - 1, first, after - 1)
        west, sine_south, east, sine_north = self.piece_box[piece].T
        lon = west + uniforms[:, 1] * (east - west)
        lat = np.degrees(np.arcsin(sine_south + uniforms[:, 2] * (sine_north - sine_south)))
        return lon, lat, shapely.contains_xy(self.pieces[piece], lon, lat)


def build_ecoregions(
    *,
    eco_id: Sequence[int],
    name: Sequence[str],
    biome_name: Sequence[str],
    realm: Sequence[str],
    geometry: Geometries,
    within: BaseGeometry | None = None,
    threads: int = 1,
) -> Ecoregions:
    """Ecoregions from table columns, clipped to `within`. Rock and Ice is left out by name; rows of one id are joined.

    Ecoregions that have no area inside `within` are left out. Raises InputError for a biome name that is none of the
    14.
    """
    index_of = {text.lower(): number for number, text in enumerate(biome_names)}
    unknown = sorted({text for text in biome_name if text.lower() not in index_of and not is_outside_biomes(text)})
    if unknown:
        raise InputError(
            "the ecoregions have biomes that are none of the 14: " + ", ".join(map(repr, unknown)),
            hint="The column with biome names must hold the names of RESOLVE Ecoregions 2017: "
            + "; ".join(biome_names)
            + ".",
        )
    rows = [
        row
        for row in np.argsort(np.asarray(eco_id, dtype=np.int64), kind="stable").tolist()
        if not is_outside_biomes(biome_name[row]) and not is_outside_biomes(name[row])
    ]
    shapes = _polygons_within(np.asarray([geometry[row] for row in rows], dtype=object), within)
    ids = np.asarray([eco_id[row] for row in rows], dtype=np.int64)
    unique_ids, first_row, group = np.unique(ids, return_index=True, return_inverse=True)
    pieces, owner = _cut_side_by_side(shapes, group, threads)
    areas = np.bincount(owner, weights=area_km2_of(pieces), minlength=len(unique_ids))
    kept = np.flatnonzero(areas > 0)
    position = np.full(len(unique_ids), -1, dtype=np.int64)
    position[kept] = np.arange(len(kept))
    used = position[owner] >= 0
    pieces, owner = pieces[used], position[owner[used]]
    shapely.prepare(pieces)
    source = [rows[first_row[item]] for item in kept.tolist()]
    west, south, east, north = shapely.bounds(pieces).reshape(-1, 4).T
    sine_south, sine_north = np.sin(np.radians(south)), np.sin(np.radians(north))
    return Ecoregions(
        eco_id=unique_ids[kept],
        name=tuple(str(name[row]) for row in source),
        biome=np.asarray([index_of[biome_name[row].lower()] for row in source], dtype=np.int64),
        realm=tuple(str(realm[row]) for row in source),
        area_km2=np.asarray(areas[kept], dtype=np.float64),
        pieces=pieces,
        owner=owner,
        piece_box=np.stack([west, sine_south, east, sine_north], axis=1),
        piece_edges=np.concatenate([[0.0], np.cumsum((east - west) * (sine_north - sine_south))]),
        tree=shapely.STRtree(pieces),
    )


def is_outside_biomes(name: str) -> bool:
    """True for the names of what is no biome (Rock and Ice, N/A)."""
    return name.strip().lower() in names_outside_biomes


def area_km2_of(geometry: Geometries) -> Floats:
    """Area on WGS 84 of polygons in degrees, exact for edges along meridians and parallels."""

    def equal_area(lonlat: Floats) -> Floats:
        lon, lat = np.radians(lonlat).T
        return np.stack([lon, authalic_sine(np.sin(lat))], axis=1) * earth_radius_km

    return np.asarray(shapely.area(shapely.transform(geometry, equal_area)), dtype=np.float64)


def authalic_sine(sine: Floats) -> Floats:
    """Sine of the authalic latitude for that of the geodetic one on WGS 84 (Snyder 1987, equations 3-11, 3-12)."""

    def area(sine: Floats) -> Floats:
        scaled = _eccentricity * sine
        return np.asarray((1 - _eccentricity**2) * (sine / (1 - scaled**2) + np.arctanh(scaled) / _eccentricity))

    return area(sine) / area(np.ones(1))


def polygons_only(geometry: Geometries) -> Geometries:
    """The same geometries made valid, with points and lines dropped from collections; missing ones become empty."""
    geometry = geometry.copy()
    geometry[shapely.is_missing(geometry)] = shapely.Polygon()
    broken = ~shapely.is_valid(geometry)
    geometry[broken] = shapely.make_valid(geometry[broken])
    for row in np.flatnonzero(~np.isin(shapely.get_type_id(geometry), (3, 6))).tolist():
        parts = shapely.get_parts(shapely.get_parts(geometry[row]))
        geometry[row] = shapely.union_all(parts[shapely.get_type_id(parts) == 3])
    return np.asarray(geometry, dtype=object)


def _polygons_within(geometry: Geometries, within: BaseGeometry | None) -> Geometries:
    geometry = polygons_only(geometry)
    if within is None:
        return geometry
    shapely.prepare(within)
    partly = shapely.intersects(within, geometry) & ~shapely.contains_properly(within, geometry)
    outside = shapely.disjoint(within, geometry)
    geometry[partly] = polygons_only(shapely.intersection(geometry[partly], within))
    geometry[outside] = shapely.Polygon()
    return geometry


def _cut_side_by_side(geometry: Geometries, group: Integers, threads: int) -> tuple[Geometries, Integers]:
    """`_cut`, with the ecoregions shared out over threads; `group`: (N,) ascending."""
    edges = np.searchsorted(group, np.unique(group)[:: max(1, len(geometry) // (4 * threads))])
    parts = [
        (geometry[first:after], group[first:after])
        for first, after in zip(edges, [*edges[1:], len(geometry)], strict=True)
    ]
    if len(parts) < 2:
        return _cut(geometry, group)
    with ThreadPoolExecutor(threads) as pool:
        cut = list(pool.map(lambda part: _cut(*part), parts))
    return np.concatenate([pieces for pieces, _ in cut]), np.concatenate([owner for _, owner in cut])


def _cut(geometry: Geometries, group: Integers) -> tuple[Geometries, Integers]:
    """Cut polygons in halves until they are small; pieces and the group of each, sorted by group."""
    parts, source = shapely.get_parts(geometry, return_index=True)
    owner = np.asarray(group)[source]
    done_parts: list[Geometries] = []
    done_owner: list[Integers] = []
    for level in range(_cut_levels + 1):
        parts, owner = parts[~shapely.is_empty(parts)], owner[~shapely.is_empty(parts)]
        small = _is_small(parts) if level < _cut_levels else np.ones(len(parts), dtype=bool)
        done_parts.append(parts[small])
        done_owner.append(owner[small])
        parts, owner = _halved(parts[~small], owner[~small])
    pieces, owners = np.concatenate(done_parts), np.concatenate(done_owner)
    order = np.argsort(owners, kind="stable")
    return pieces[order], owners[order]


def _is_small(parts: Geometries) -> Flags:
    west, south, east, north = shapely.bounds(parts).reshape(-1, 4).T
    compact = shapely.area(parts) >= _piece_fill * (east - west) * (north - south)
    vertices = shapely.get_num_coordinates(parts)
    # Long slanted edges bend in the equal-area plane, which would falsify the area of a piece.
    short = np.maximum(east - west, north - south) <= 10.0
    tiny = np.maximum(east - west, north - south) <= _piece_smallest
    return np.asarray((vertices <= _piece_coordinates) & (compact | tiny) & short)


def _halved(parts: Geometries, owner: Integers) -> tuple[Geometries, Integers]:
    west, south, east, north = shapely.bounds(parts).reshape(-1, 4).T
    wide = (east - west) * np.cos(np.radians((south + north) / 2)) >= north - south
    middle_x, middle_y = np.where(wide, (west + east) / 2, east), np.where(wide, north, (south + north) / 2)
    lower = shapely.intersection(parts, shapely.box(west, south, middle_x, middle_y))
    upper = shapely.intersection(
        parts, shapely.box(np.where(wide, middle_x, west), np.where(wide, south, middle_y), east, north)
    )
    pieces, source = shapely.get_parts(np.concatenate([lower, upper]), return_index=True)
    polygon = shapely.get_type_id(pieces) == 3
    return pieces[polygon], np.concatenate([owner, owner])[source[polygon]]
