"""A chip is the same alone, in a block, and after a split; failures narrow down to the chips they are of."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from fakes.earth import pixels
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.io.answers import arrays_of, take_answer
from m3etl.io.assembly import Chips
from m3etl.io.blocks import block_of, block_sides, largest_block, place_in
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.pixels import PixelJob, plan_block, plan_requests, split_block
from m3etl.spec.catalog import select_arrays
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import ArrayScenes, ArrayStatus, max_request_bytes
from m3etl.spec.modality import Shape

specs = {spec.name: spec for spec in select_arrays()}
left, bottom = 2000, 30_000  # column and row of the block's first chip; multiples of 8


def job_at(column: int, row: int, *, epsg: int = 32632, scenes: str = "one", check: bool = False) -> PixelJob:
    chip = ChipGrid(
        chip_id=f"{epsg}-0160-{column:04d}-{row:04d}",
        epsg=epsg,
        xmin=column * 160.0,
        ymax=(row + 1) * 160.0,
        chip_px=16,
    )
    planned = {name: ArrayScenes(status=ArrayStatus.OK, scene_ids=(f"{name}/{scenes}",)) for name in specs}
    return PixelJob(chip=chip, specs=specs, scenes=planned, check=check)


def alone(job: PixelJob):
    pieces = [piece for request in plan_requests(job) for piece in take_answer(request, pixels(request))]
    return arrays_of([piece.part for piece in pieces], specs, job.chip, {}), pieces


cells = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(cells, st.sampled_from(block_sides), st.booleans(), st.data())
def test_every_way_gives_the_same_chip(found, chips, check, data):
    jobs = [job_at(left + x, bottom + y, check=check) for x, y in sorted(found)]
    blocks = {}
    for job in jobs:
        blocks.setdefault(block_of(job.chip, chips).chip_id, []).append(job)
    todo = [request for block in blocks.values() for request in plan_block(block, chips)]
    seen = {}
    while todo:
        request = todo.pop()
        if request.members and data.draw(st.booleans()):
            todo += split_block(request)
            continue
        for piece in take_answer(request, pixels(request)):
            assert piece.job.chip.chip_id not in seen
            seen[piece.job.chip.chip_id] = piece
    assert seen.keys() == {job.chip.chip_id for job in jobs}
    for job in jobs:
        expected, (whole,) = alone(job)
        piece = seen[job.chip.chip_id]
        assert piece.valid == pytest.approx(whole.valid)
        arrays = arrays_of([piece.part], specs, job.chip, {})
        assert arrays.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(arrays[name], values, err_msg=name)


@given(st.integers(0, 90_000), st.integers(0, 99_000), st.sampled_from(block_sides))
def test_blocks_tile_the_lattice(column, row, chips):
    chip = job_at(column, row).chip
    block = block_of(chip, chips)
    down, across = place_in(block, chip)
    assert 0 <= down < chips
    assert 0 <= across < chips
    assert block.xmin % (chips * 160) == 0
    assert block.ymax % (chips * 160) == 0
    corner = replace(chip, xmin=block.xmin, ymax=block.ymax)
    assert block_of(corner, chips) == block


def test_a_full_block_is_one_request_within_the_limits():
    jobs = [job_at(left + x, bottom + y) for x in range(8) for y in range(8)]
    (request,) = plan_block(jobs, 8)
    assert len(request.members) == 64
    assert request.counted_bytes <= max_request_bytes
    assert request.nbytes < 2 * request.counted_bytes
    large = [replace(job, chip=replace(job.chip, chip_px=128)) for job in jobs]
    assert {len(item.members) for item in plan_block([_scaled(job) for job in large], 8)} == {16}


def _scaled(job: PixelJob) -> PixelJob:
    column, row = round(job.chip.xmin / 160), round(job.chip.ymax / 160) - 1
    return replace(job, chip=replace(job.chip, xmin=column * 1280.0, ymax=(row + 1) * 1280.0))


def test_the_largest_block_that_fits():
    rasters = list(specs.values())
    assert largest_block(rasters, 128, most_bytes=2**40) == 4
    assert largest_block(rasters, 16, most_bytes=2**40) == 8
    assert largest_block(rasters, 128, most_bytes=2**22) == 1
    assert largest_block([spec for spec in rasters if spec.name == "worldcover"], 5000, most_bytes=2**40) == 1


def test_chips_of_other_scenes_or_a_thin_block_go_alone():
    apart = [job_at(left + x, bottom, scenes="one" if x < 2 else "two") for x in range(4)]
    assert [len(request.members) for request in plan_block(apart, 4)] == [2, 2]
    thin = [job_at(left, bottom), job_at(left + 3, bottom + 3)]
    assert [request.members for request in plan_block(thin, 4)] == [(), ()]


class Fetching:
    """Chips over a block, answered by the fake earth."""

    def __init__(self, jobs, chips=4):
        self.failed = {}
        self.chips = Chips(fail=lambda name, failure: self.failed.setdefault(name, failure.kind), block_chips=chips)
        self.todo = list(self.chips.start(iter(jobs)))
        self.sent = 0
        self.whole = {}

    def run(self, trouble):
        while self.todo:
            request = self.todo.pop()
            self.sent += 1
            failure = trouble(request)
            if failure is None:
                self.land(self.chips.arrived([take_answer(request, pixels(request))]))
                continue
            parts = self.chips.split(request, failure)
            if parts is None:
                self.chips.give_up(request, failure)
            else:
                self.todo += parts
        self.land(self.chips.arrived([]))
        return self

    def land(self, whole):
        for chip in whole:
            assert chip.chip_id not in self.whole
            self.whole[chip.chip_id] = chip


square = [job_at(left + x, bottom + y) for x in range(4) for y in range(4)]


def test_one_request_for_sixteen_chips():
    done = Fetching(square).run(lambda request: None)
    assert done.sent == 1
    assert len(done.whole) == 16


@pytest.mark.parametrize("kind", [Kind.DETERMINISTIC, Kind.TRANSIENT, Kind.WRONG, Kind.TOO_LARGE])
def test_what_spoils_a_block_is_found_and_only_its_chip_is_lost(kind):
    victim = square[5].chip.chip_id

    def trouble(request):
        is_hit = any(job.chip.chip_id == victim for job in request.chips)
        return Failure(kind=kind, message="x") if is_hit and (request.members or kind is not Kind.TOO_LARGE) else None

    done = Fetching(square).run(trouble)
    assert done.failed == ({} if kind is Kind.TOO_LARGE else {victim: kind})
    assert len(done.whole) + len(done.failed) == 16
    assert done.sent <= 1 + 4 + 4


def test_a_vanished_image_is_left_out_of_the_whole_block_at_once():
    def trouble(request):
        if "dynamic_world" in request.arrays:
            return Failure(kind=Kind.SOURCE_CHANGED, message="gone", asset="dynamic_world/one")
        return None

    done = Fetching(square).run(trouble)
    assert done.sent == 2
    assert {tuple(chip.statuses.items()) for chip in done.whole.values()} == {
        (("dynamic_world", ArrayStatus.SOURCE_CHANGED),)
    }
    assert all("dynamic_world" not in chip.valid for chip in done.whole.values())


def test_chips_come_in_rows_and_blocks_are_still_whole():
    jobs = [job_at(left + x, bottom + 7 - y) for y in range(8) for x in range(8)]
    chips = Chips(fail=lambda name, failure: None, block_chips=4)
    assert [len(request.members) for request in chips.start(iter(jobs))] == [16] * 4


def test_a_promise_is_kept_for_every_chip_of_a_block():
    jobs = list(square)
    scenes = dict(jobs[3].scenes)
    scenes["sentinel1_asc"] = replace(scenes["sentinel1_asc"], valid_fraction=1.0)
    jobs[3] = replace(jobs[3], scenes=scenes)
    (request,) = plan_block(jobs, 4)
    body = pixels(request)
    assert len(take_answer(request, body)) == 16
    less = replace(request, members=tuple(job for job in request.members if job is not jobs[3]))
    with pytest.raises(RequestFailed, match="all fill where planning promised 100%"):
        take_answer(request, pixels(less))


@pytest.mark.parametrize(("promised", "accepted"), [(1.0, False), (0.7, True), (None, True)])
def test_a_promise_is_checked_in_proportion(promised, accepted):
    job = job_at(left, bottom)
    half = {**job.scenes, "sentinel2_l2a": replace(job.scenes["sentinel2_l2a"], valid_fraction=promised)}
    (request,) = plan_requests(replace(job, scenes=half))
    fields = np.load(io.BytesIO(pixels(request)))
    for name in fields.dtype.names:
        if name.startswith("sentinel2_l2a"):
            fields[name][:8] = specs["sentinel2_l2a"].fill
    stream = io.BytesIO()
    np.save(stream, fields)
    if accepted:
        (piece,) = take_answer(request, stream.getvalue())
        assert piece.valid["sentinel2_l2a"] == 0.5
    else:
        with pytest.raises(RequestFailed, match="shows 50% where planning promised 100%"):
            take_answer(request, stream.getvalue())


def test_slices_that_may_overlap_promise_less():
    job = job_at(left, bottom)
    two = ArrayScenes(status=ArrayStatus.OK, scene_ids=("a/1", "a/2"), valid_fraction=1.0)
    (request,) = plan_requests(replace(job, scenes={**job.scenes, "sentinel1_asc": two}))
    (piece,) = take_answer(request, pixels(request))
    assert piece.valid["sentinel1_asc"] == 13 / 16


def test_only_rasters_make_a_request():
    vectors = {name: spec for name, spec in specs.items() if spec.shape is not Shape.RASTER}
    jobs = [replace(job, specs=vectors) for job in square]
    assert plan_block(jobs, 4) == []
    assert len(Fetching(jobs).run(lambda request: None).whole) == 16
