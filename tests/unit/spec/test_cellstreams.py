"""Streams of cells: the number of threads and the way of asking change nothing; taken and excluded cells stay out."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from fakes.ecoregion_table import world_columns

from m3etl.spec.cellstreams import CellRules, CellStreams, is_in
from m3etl.spec.ecoregions import Ecoregions, build_ecoregions


@pytest.fixture(scope="module")
def world() -> Ecoregions:
    return build_ecoregions(**world_columns())


def drawn(world: Ecoregions, target: np.ndarray, rules: CellRules, *, threads: int = 1, steps: int = 1) -> CellStreams:
    streams = CellStreams(world, rules, threads=threads, advance=lambda count: None)
    for step in range(1, steps + 1):
        streams.extend(target * step // steps)
    return streams


@pytest.mark.parametrize(("threads", "steps"), [(3, 1), (1, 4), (2, 7)])
def test_neither_threads_nor_rounds_change_the_cells(world: Ecoregions, threads: int, steps: int):
    rules = CellRules(cell_m=1280, seed=3)
    target = np.arange(len(world)) * 3 + 1
    nothing = np.zeros_like(target)
    one = drawn(world, target, rules).selection(target, nothing)
    other = drawn(world, target, rules, threads=threads, steps=steps).selection(target, nothing)
    assert one[0].chip_ids() == other[0].chip_ids()
    assert one[1].tolist() == other[1].tolist()
    counts = np.bincount(one[1], minlength=len(world))
    roomy = world.eco_id != 203
    assert counts[roomy].tolist() == target[roomy].tolist()


def test_taken_cells_are_passed_over_and_the_stream_goes_on(world: Ecoregions):
    target = np.full(len(world), 20)
    nothing = np.zeros_like(target)
    first, _, _ = drawn(world, target, CellRules(cell_m=1280, seed=3)).selection(target, nothing)
    both, _, _ = drawn(world, 2 * target, CellRules(cell_m=1280, seed=3)).selection(2 * target, nothing)
    streams = drawn(world, target, CellRules(cell_m=1280, seed=3, taken=np.sort(first.key)))
    second, _, _ = streams.selection(target, nothing)
    assert not set(first.key.tolist()) & set(second.key.tolist())
    # The tiny ecoregion 203 has one cell at most; everywhere else the old and the new ones are one longer draw.
    assert set(first.key.tolist()) | set(second.key.tolist()) >= set(both.key.tolist())
    assert streams.outcomes["cells of the plan as it was"] > 0


def test_a_crowded_ecoregion_goes_on_where_its_plan_ended():
    columns = {key: [value[0]] for key, value in world_columns().items()}
    columns["geometry"] = np.array([shapely.box(61.0, 30.0, 61.5, 30.5)], dtype=object)
    small = build_ecoregions(**columns)  # room for about 1,600 cells
    first, _, _ = drawn(small, np.array([1200]), CellRules(cell_m=1280, seed=3)).selection(
        np.array([1200]), np.array([0])
    )
    assert len(first) == 1200
    rules = CellRules(cell_m=1280, seed=3, taken=np.sort(first.key))
    for steps in (1, 5):
        streams = drawn(small, np.array([30]), rules, steps=steps)
        assert streams.count[0] >= 30
        assert not streams.exhausted[0]
    assert streams.outcomes["cells of the plan as it was"] <= 1200


def test_excluded_cells_are_counted_and_never_drawn(world: Ecoregions):
    target = np.full(len(world), 15)
    rules = CellRules(cell_m=1280, seed=3, is_excluded=lambda cells: cells.column % 2 == 0)
    streams = drawn(world, target, rules)
    cells, owner, _ = streams.selection(target, np.zeros_like(target))
    assert (cells.column % 2 == 1).all()
    assert streams.outcomes["cells near excluded places"] > 0.3 * len(cells)
    assert np.bincount(owner, minlength=len(world))[0] == 15


def test_where_everything_is_excluded_the_streams_give_up(world: Ecoregions):
    target = np.full(len(world), 100_000)
    rules = CellRules(cell_m=1280, seed=3, is_excluded=lambda cells: np.ones(len(cells), dtype=bool))
    streams = drawn(world, target, rules)
    assert streams.exhausted.all()
    assert streams.count.sum() == 0
    assert sum(streams.outcomes.values()) < 6000 * len(world)


def test_sea_zone_edges_and_far_latitudes_are_counted():
    columns = {key: [value[0]] for key, value in world_columns().items()}
    columns["geometry"] = np.array([shapely.box(5.0, 83.5, 7.0, 89.0)], dtype=object)
    edge = build_ecoregions(**columns)
    target = np.array([60])
    streams = drawn(edge, target, CellRules(cell_m=4480, seed=1))
    outcomes = streams.outcomes
    assert outcomes["points outside 80S-84N"] > 100
    assert outcomes["cells with their centre in the sea or on ice"] > 0
    assert outcomes["accepted"] == streams.count[0]
    cells, _, _ = streams.selection(target, np.zeros(1, dtype=np.int64))
    assert (cells.centre_lonlat[1] <= 84.0).all()


def test_bisection_finds_members():
    members = np.array([3, 9, 12])
    assert is_in(np.array([2, 3, 12, 13]), members).tolist() == [False, True, True, False]
    assert is_in(np.array([2]), members[:0]).tolist() == [False]
