"""Planning of export tasks: every array of every chip exactly once, on the lattice, one type and one set of images."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.spec.catalog import arrays, find_array, select_arrays
from m3etl.spec.exporttasks import (
    ExportTask,
    TaskChip,
    cells_a_side,
    halves,
    max_file_bytes,
    plan_tasks,
    request_id,
    tile_of,
    without_image,
)
from m3etl.spec.modality import Shape

chip_m = 1280.0
names = ("sentinel2_l2a", "sentinel1_asc", "aster_elevation", "aster_slope", "canopy_height", "worldcover")
specs = {name: arrays[name] for name in names}


def chip(column: int, row: int, scenes: dict[str, tuple[str, ...]]) -> TaskChip:
    """The chip of a cell; its id says where it lies."""
    return TaskChip(
        chip_id=f"32632-1280-{column:04d}-{row:04d}",
        epsg=32632,
        xmin=column * chip_m,
        ymax=(row + 1) * chip_m,
        scenes=scenes,
    )


@st.composite
def tiles(draw: st.DrawFn) -> list[TaskChip]:
    """Some chips of one tile, each with some arrays of one of two sets of images."""
    cells = draw(st.sets(st.tuples(st.integers(400, 407), st.integers(3000, 3007)), min_size=1, max_size=12))
    found = []
    for column, row in cells:
        wanted = draw(st.sets(st.sampled_from(names), min_size=1))
        found.append(chip(column, row, {name: (f"{name}/{draw(st.integers(0, 1))}",) for name in wanted}))
    return found


def asked(tasks: list[ExportTask]) -> list[tuple[str, str, tuple[str, ...]]]:
    """(chip, array, images) that tasks bring."""
    return sorted(
        (chip_id, name, task.scenes[name]) for task in tasks for chip_id in task.chip_ids for name in task.scenes
    )


@settings(max_examples=60, deadline=None)
@given(tiles())
def test_every_array_of_every_chip_comes_once(chips: list[TaskChip]) -> None:
    tasks = plan_tasks("tile", chips, specs, chip_m=chip_m)
    wanted = sorted((item.chip_id, name, ids) for item in chips for name, ids in item.scenes.items())
    assert asked(tasks) == wanted
    assert tasks == plan_tasks("tile", chips[::-1], specs, chip_m=chip_m), "the order of chips changes nothing"
    for task in tasks:
        assert len({specs[name].dtype for name in task.scenes}) == 1
        assert {specs[name].pixels(chip_m) for name in task.scenes} == {task.side}
        assert ExportTask.from_json(task.to_json()) == task
        for chip_id, column, row in task.chips:
            assert 0 <= column < task.columns
            assert 0 <= row < task.rows
            assert chip(round(task.xmin / chip_m) + column, round(task.ymax / chip_m) - 1 - row, {}).chip_id == chip_id
        across, down = {item[1] for item in task.chips}, {item[2] for item in task.chips}
        assert (min(across), min(down)) == (0, 0)
        assert (max(across), max(down)) == (task.columns - 1, task.rows - 1)
        assert list(task.chips) == sorted(task.chips, key=lambda item: (item[2], item[1]))


@settings(max_examples=40, deadline=None)
@given(tiles(), st.data())
def test_smaller_tasks_bring_the_same(chips: list[TaskChip], data: st.DataObject) -> None:
    task = data.draw(st.sampled_from(plan_tasks("tile", chips, specs, chip_m=chip_m)))
    parts = halves(task)
    if parts is None:
        assert len(task.scenes) == len(task.chips) == 1
    else:
        assert asked(parts) == asked([task])
        assert all(part.width * part.height <= task.width * task.height for part in parts)
    gone = data.draw(st.sampled_from([ids[0] for ids in task.scenes.values()]))
    left, absent = without_image(task, gone)
    assert absent == [name for name, ids in task.scenes.items() if gone in ids]
    assert asked(left) == [item for item in asked([task]) if gone not in item[2]]


def test_layers_that_share_their_images_share_a_task() -> None:
    static = {"canopy_height": ("a", "b"), "worldcover": ("c",), "aster_elevation": ("d",), "aster_slope": ("d",)}
    chips = [chip(400 + column, 3000 + row, static) for column, row in itertools.product(range(8), range(8))]
    tasks = plan_tasks("tile", chips, specs, chip_m=chip_m)
    assert [tuple(task.scenes) for task in tasks] == [
        ("aster_elevation", "aster_slope"),
        ("canopy_height", "worldcover"),
    ]
    assert {(task.columns, task.rows) for task in tasks} == {(8, 8)}
    assert [(task.width, task.height) for task in tasks] == [(344, 344), (1024, 1024)]
    assert tasks[1].affine == (10.0, 0.0, 512_000.0, 0.0, -10.0, 3_850_240.0)


def test_images_of_their_own_make_a_task_of_their_own() -> None:
    chips = [
        chip(400 + number, 3000, {"worldcover": (f"map{number // 2}",), "canopy_height": ("h",)}) for number in range(4)
    ]
    tasks = plan_tasks("tile", chips, specs, chip_m=chip_m)
    assert [(tuple(task.scenes), len(task.chips)) for task in tasks] == [
        (("canopy_height",), 4),
        (("worldcover",), 2),
        (("worldcover",), 2),
    ]


def test_tiles_are_squares_of_cells_of_one_zone() -> None:
    inside = {
        tile_of(chip(64 + column, 128 + row, {}), chip_m=chip_m, cells=64) for column in (0, 63) for row in (0, 63)
    }
    assert inside == {"32632-64-1-2"}
    assert tile_of(chip(63, 128, {}), chip_m=chip_m, cells=64) == "32632-64-0-2"
    assert tile_of(chip(64, 192, {}), chip_m=chip_m, cells=64) == "32632-64-1-3"


def test_a_tile_fits_into_one_file_of_the_service() -> None:
    rasters = [spec for spec in select_arrays() if spec.shape is Shape.RASTER]
    assert cells_a_side(rasters, chip_px=128, tile_px=8192) == 64
    assert cells_a_side(rasters, chip_px=128, tile_px=100) == 1
    cells = cells_a_side(rasters, chip_px=128, tile_px=10**6)
    for dtype in {spec.dtype for spec in rasters}:
        bands = sum(len(spec.bands) for spec in rasters if spec.dtype == dtype)
        assert (cells * 128) ** 2 * bands * np.dtype(dtype).itemsize < max_file_bytes


def test_identities_tell_tasks_campaigns_and_attempts_apart() -> None:
    one, two = (
        plan_tasks("tile", [chip(400, 3000, {"worldcover": (name,)})], specs, chip_m=chip_m)[0] for name in "ab"
    )
    jobs = {one.job("x"), two.job("x"), one.job("y")}
    assert len(jobs) == 3
    assert one.job("x") == ExportTask.from_json(one.to_json()).job("x")
    identities = {request_id(job, attempt) for job in jobs for attempt in (1, 2)}
    assert len(identities) == 6
    for identity in identities:
        assert len(identity) <= 60
        assert identity.replace("-", "").isalnum()


@pytest.mark.parametrize("side", [1, 3])
def test_a_chip_alone_cannot_be_halved(side: int) -> None:
    task = plan_tasks("tile", [chip(400, 3000, {"worldcover": ("a",)})], specs, chip_m=chip_m * side)[0]
    assert halves(task) is None
    assert without_image(task, "a") == ([], ["worldcover"])
    assert without_image(task, "b") == ([], [])


def test_an_image_that_has_gone_takes_its_own_period_with_it() -> None:
    dated = {"sentinel1_dates_asc": ("DJF:a", "DJF:b", "MAM:c", "SON:a"), "sentinel1_asc": ("b",)}
    chips = [chip(400, 3000, dated), chip(401, 3000, dated)]
    some = {name: find_array(name) for name in dated}
    (task,) = plan_tasks("tile", chips, some, chip_m=chip_m)
    (less,), gone = without_image(task, "a")
    assert gone == ["sentinel1_dates_asc/DJF", "sentinel1_dates_asc/SON"]
    assert less == replace(task, scenes={"sentinel1_asc": ("b",), "sentinel1_dates_asc": ("MAM:c",)})
    (last,), gone = without_image(less, "c")
    assert (list(last.scenes), gone) == (["sentinel1_asc"], ["sentinel1_dates_asc"])
