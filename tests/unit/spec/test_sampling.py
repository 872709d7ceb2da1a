"""The draw of chips: quotas, no overlaps, the right ecoregion, reserve, growth, spacing, shortage, and points."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from fakes.ecoregion_table import world_columns
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.errors import InputError
from m3etl.spec.biomes import biome_names
from m3etl.spec.cellstreams import CellRules
from m3etl.spec.ecoregions import Ecoregions, build_ecoregions
from m3etl.spec.lattice import cells_of_lonlat
from m3etl.spec.sampling import BiomeDraw, cells_of_points, draw_biome_cells, reserve_of, years_of_cells

all_biomes = tuple(range(14))


@pytest.fixture(scope="module")
def world() -> Ecoregions:
    return build_ecoregions(**world_columns())


def draw(world: Ecoregions, chips: int, **options: object) -> BiomeDraw:
    of_rules = {"cell_m", "seed", "spacing_m", "taken", "is_excluded"} & set(options)
    rules = CellRules(**{"cell_m": 1280, "seed": 4, **{name: options.pop(name) for name in of_rules}})  # type: ignore[arg-type]
    return draw_biome_cells(world, chips=chips, rules=rules, **{"biomes": all_biomes, **options})  # type: ignore[arg-type]


def keys_of(found: BiomeDraw, planned_only: bool = False) -> set[int]:
    keys = found.cells.key[~found.reserve] if planned_only else found.cells.key
    return set(keys.tolist())


@settings(max_examples=25)
@given(st.integers(1, 400), st.sets(st.integers(0, 13), min_size=1), st.integers(0, 2**32))
def test_quotas_reserve_and_places(world: Ecoregions, chips: int, biomes: set[int], seed: int):
    found = draw(world, chips, biomes=sorted(biomes), seed=seed)
    planned = ~found.reserve
    assert planned.sum() == chips
    per_biome = np.bincount(world.biome[found.ecoregion[planned]], minlength=14)[sorted(biomes)]
    assert per_biome.max() - per_biome.min() <= 1
    assert len(keys_of(found)) == len(found.cells)
    assert found.cells.wholly_inside().all()
    assert np.array_equal(world.lookup(*found.cells.centre_lonlat), found.ecoregion)
    planned_per_ecoregion = np.bincount(found.ecoregion[planned], minlength=len(world))
    reserve_per_ecoregion = np.bincount(found.ecoregion[found.reserve], minlength=len(world))
    roomy = world.eco_id != 203
    assert np.array_equal(reserve_per_ecoregion[roomy], reserve_of(planned_per_ecoregion, 0.25)[roomy])


def test_same_seed_same_cells_and_another_seed_others(world: Ecoregions):
    first, again, other = draw(world, 100), draw(world, 100), draw(world, 100, seed=5)
    assert first.cells.chip_ids() == again.cells.chip_ids()
    assert np.array_equal(first.reserve, again.reserve)
    assert not keys_of(first) & keys_of(other)


def test_other_biomes_change_nothing_and_growth_keeps_every_chip(world: Ecoregions):
    everything, two = draw(world, 140), draw(world, 20, biomes=(0, 9))
    of_two = np.isin(world.biome[everything.ecoregion], (0, 9))
    assert set(everything.cells.key[of_two].tolist()) == keys_of(two)
    assert keys_of(draw(world, 50)) <= keys_of(everything) <= keys_of(draw(world, 700))


def test_order_is_by_biome_and_ecoregion_with_the_reserve_last(world: Ecoregions):
    found = draw(world, 60)
    order = list(zip(world.biome[found.ecoregion], found.ecoregion, found.reserve, strict=True))
    assert order == sorted(order)


def test_what_a_full_ecoregion_lacks_moves_within_its_biome(world: Ecoregions):
    # Ecoregion 203 is one square kilometre: it has room for one centre at most, and at least one chip is asked of it.
    found = draw(world, 40, biomes=(9,), cell_m=320)
    tiny = int(np.flatnonzero(world.eco_id == 203)[0])
    assert np.sum(~found.reserve) == 40
    assert set(found.missing.values()) == {0}
    crowded = draw(world, 2000, biomes=(9,), cell_m=1280)
    assert np.sum(~crowded.reserve) == 2000
    assert np.sum(crowded.ecoregion == tiny) <= 1
    assert "Ecoregion 203" in crowded.exhausted


def test_what_a_full_biome_lacks_is_reported():
    columns = {key: [value[-2]] for key, value in world_columns().items()}
    columns["geometry"] = np.array([shapely.box(61.0, -30.0, 61.1, -29.9)], dtype=object)
    small = build_ecoregions(**columns)  # 107 km2 of mangroves: 65 cells of 1280 m at most
    found = draw(small, 500)
    planned = int(np.sum(~found.reserve))
    assert 50 <= planned <= 75
    assert found.missing == {9: 500 - planned}
    # The bounded number of attempts finds every cell whose centre is inside.
    lon, lat = (part.ravel() for part in np.meshgrid(np.linspace(61, 61.1, 200), np.linspace(-30, -29.9, 200)))
    cells, _ = cells_of_lonlat(lon, lat, 1280)
    inside = small.lookup(*cells.centre_lonlat) == 0
    assert planned == len(set(cells.key[inside].tolist()))


def test_spacing_holds_over_zone_edges_and_the_equator():
    columns = {key: [value[0]] for key, value in world_columns().items()}
    columns["geometry"] = np.array([shapely.box(5.0, -0.6, 7.0, 0.6)], dtype=object)
    edge = build_ecoregions(**columns)
    spaced = draw(edge, 60, spacing_m=10_000.0)
    assert len(np.unique(spaced.cells.epsg)) == 4
    lon, lat = spaced.cells.centre_lonlat
    metres = np.stack([np.radians(lon), np.radians(lat)], axis=1) * 6_378_137.0
    metres[:, 1] *= 6_335_439.0 / 6_378_137.0
    distance = np.hypot(*(metres[:, None] - metres[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    assert distance.min() >= 10_000.0
    assert keys_of(draw(edge, 20, spacing_m=10_000.0)) <= keys_of(spaced)


def test_biomes_that_do_not_occur_are_left_out_or_refused(world: Ecoregions):
    part = build_ecoregions(**world_columns(), within=shapely.box(-171.0, -41.0, -110.0, 0.0))
    found = draw(part, 30)
    assert found.quota == {0: 10, 1: 10, 2: 10}
    with pytest.raises(InputError, match="none of the selected biomes") as caught:
        draw(part, 30, biomes=(9,))
    assert biome_names[1] in caught.value.hint
    nowhere = build_ecoregions(**world_columns(), within=shapely.box(0.0, 70.0, 1.0, 71.0))
    with pytest.raises(InputError) as caught:
        draw(nowhere, 30)
    assert "no land" in caught.value.hint


def test_years_are_uniform_and_belong_to_the_cell(world: Ecoregions):
    cells = draw(world, 3000).cells
    years = years_of_cells(cells, 2017, 2020, seed=1)
    counts = np.bincount(years - 2017)
    assert len(counts) == 4
    assert np.abs(counts - len(cells) / 4).max() < 5 * np.sqrt(len(cells) / 4)
    assert np.array_equal(years_of_cells(cells[::-1], 2017, 2020, seed=1)[::-1], years)
    assert set(years_of_cells(cells, 2019, 2019, seed=1).tolist()) == {2019}
    assert not np.array_equal(years_of_cells(cells, 2017, 2020, seed=2), years)


def test_points_take_their_cells_once_and_rejects_are_counted():
    lon = np.array([9.0, 9.0001, 5.9999, 20.0, -61.0, 9.0])
    lat = np.array([47.0, 47.0001, 47.0, 85.0, -10.0, 47.2])
    found = cells_of_points(lon, lat, 1280)
    assert found.source.tolist() == [0, 4, 5]
    assert (found.unreachable, found.zone_edge, found.duplicate) == (1, 1, 1)
    assert found.cells.epsg.tolist() == [32632, 32720, 32632]
    centre_lon, centre_lat = found.cells.centre_lonlat
    assert np.abs(centre_lon - lon[found.source]).max() < 0.01
    assert np.abs(centre_lat - lat[found.source]).max() < 0.01


def test_progress_counts_accepted_cells(world: Ecoregions):
    steps: list[int] = []
    found = draw(world, 200, advance=steps.append)
    assert sum(steps) >= len(found.cells)
