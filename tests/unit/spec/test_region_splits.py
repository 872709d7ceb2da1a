"""Splits over the real regions, wall to wall at 4480 m: bands as M3LEO has them but apart, and every other way."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import shapely

from m3etl.io.regions import read_region
from m3etl.spec.lattice import Cells
from m3etl.spec.leakage import leakage_of
from m3etl.spec.splitmodes import BlockSplits, Splits, band_splits, ecoregion_splits, held_out_splits
from m3etl.spec.splits import SplitRule, buffer, test, train, val
from m3etl.spec.walltowall import cells_in_region, polygons_lonlat

shares = (0.6, 0.2, 0.2)
# The angles that M3LEO's files are named after, in radians.
angles = {"china": 1.5, "conus": 0.9, "europe": 0.9, "middleeast": 1.5, "pakin": 1.5, "southamerica": 0.2}


@cache
def chips_of(name: str) -> Cells:
    batches = list(cells_in_region(read_region(name).geometry, 4480))
    epsg, column, row = (np.concatenate([getattr(b, part) for b in batches]) for part in ("epsg", "column", "row"))
    return Cells(cell_m=4480, epsg=epsg, column=column, row=row)


def touching(chips: Cells, codes: npt.NDArray[np.int8]) -> int:
    """Chips of different sets that touch: side by side or at a corner on the lattice, or across the edge of a zone."""
    order = np.argsort(chips.key)
    keys, found = chips.key[order], 0
    for column, row in ((1, 0), (0, 1), (1, 1), (1, -1)):
        beside = Cells(cell_m=4480, epsg=chips.epsg, column=chips.column + column, row=chips.row + row).key
        place = np.minimum(np.searchsorted(keys, beside), len(keys) - 1)
        found += _across(codes, np.flatnonzero(keys[place] == beside), order[place][keys[place] == beside])
    lon, _ = chips.centre_lonlat
    seam = np.flatnonzero(np.abs((lon + 3.0) % 6.0 - 3.0) < 0.15)
    shapes = polygons_lonlat(chips[seam])
    first, second = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=1e-4)
    other = chips.epsg[seam[first]] < chips.epsg[seam[second]]
    return found + _across(codes, seam[first[other]], seam[second[other]])


def _across(codes: npt.NDArray[np.int8], first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> int:
    one, other = codes[first], codes[second]
    return int(((one != other) & (one != buffer) & (other != buffer)).sum())


def codes_of(splits: Splits, chips: Cells, eco_id: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int8]:
    lon, lat = chips.centre_lonlat
    return splits.codes(lon, lat, np.zeros(len(lon), np.int64) if eco_id is None else eco_id, 4480.0)


@pytest.mark.parametrize("name", angles)
def test_sixty_bands_have_no_touching_pair_across_sets(name: str):
    region, chips = read_region(name).geometry, chips_of(name)
    codes = codes_of(band_splits(region, bands=60, angle=angles[name], fractions=shares, buffer_km=5.0), chips)
    assert touching(chips, codes) == 0
    lon, lat = chips.centre_lonlat
    assert leakage_of(lon, lat, codes, chip_m=4480.0, distance_km=5.0).count == 0
    count = np.bincount(codes, minlength=4)
    assert min(count[[train, val, test]]) > 5_000
    # What M3LEO publishes has no buffer: test chips lie beside those of training.
    published = codes_of(band_splits(region, bands=60, angle=angles[name], fractions=shares, buffer_km=0.0), chips)
    assert touching(chips, published) > 5_000
    assert np.bincount(published, minlength=4) / len(chips) == pytest.approx([*shares, 0.0], abs=0.05)


@pytest.mark.parametrize("mode", ["block", "ecoregion", "region"])
def test_no_way_to_split_has_a_touching_pair_across_sets(mode: str):
    name = "southamerica"
    region, chips = read_region(name).geometry, chips_of(name)
    lon, lat = chips.centre_lonlat
    # Ecoregions of straight and of ragged edges: stripes of a degree and a half, cut by a slanting line.
    stripes = [shapely.box(west, -60, west + 1.5, 15) for west in np.arange(-85.0, -55.0, 1.5)]
    knife = shapely.Polygon([(-90, -60), (-50, -60), (-50, -30), (-90, 10)])
    shapes = np.array([part for one in stripes for part in (one.intersection(knife), one.difference(knife))], object)
    names = np.arange(len(shapes))
    eco_id = np.full(len(chips), -1)
    for number, shape in zip(names, shapes, strict=True):
        eco_id[shapely.contains_xy(shape, lon, lat)] = number
    held = [part for part in region.geoms if part.contains(shapely.Point(lon[0], lat[0]))]
    splits: dict[str, Splits] = {
        "block": BlockSplits(rule=SplitRule(seed=1, block_km=100.0, fractions=shares, buffer_km=5.0)),
        "ecoregion": ecoregion_splits(names, shapes, seed=1, fractions=shares, buffer_km=5.0),
        "region": held_out_splits(
            [*held, shapely.box(-71, -35, -69, -32)],
            seed=1, block_km=100.0, fractions=shares, buffer_km=5.0,
        ),
    }  # fmt: skip
    codes = codes_of(splits[mode], chips, eco_id)
    assert touching(chips, codes) == 0
    assert leakage_of(lon, lat, codes, chip_m=4480.0, distance_km=5.0).count == 0
    assert {train, val, test} <= set(codes.tolist())


def test_touching_chips_are_counted():
    """The count above can tell: two halves of a box meet along a parallel and across the edge of a zone."""
    batches = list(cells_in_region(shapely.box(5.5, 47.0, 6.5, 48.0), 4480))
    epsg, column, row = (np.concatenate([getattr(b, part) for b in batches]) for part in ("epsg", "column", "row"))
    chips = Cells(cell_m=4480, epsg=epsg, column=column, row=row)
    lon, lat = chips.centre_lonlat
    assert touching(chips, np.zeros(len(chips), np.int8)) == 0
    assert touching(chips, np.where(lat > 47.5, test, train).astype(np.int8)) > 20
    assert touching(chips, np.where(lon > 6.0, test, train).astype(np.int8)) > 20
