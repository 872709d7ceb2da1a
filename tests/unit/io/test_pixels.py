"""Requests stay within the service's limits however a chip is cut, and what comes back in pieces is the same chip."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from fakes.earth import pixels
from hypothesis import given
from hypothesis import strategies as st

from m3etl.io.answers import arrays_of, read_answer, take_answer
from m3etl.io.assembly import Chips
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.pixels import PixelJob, final_status, halves, plan_requests, without
from m3etl.io.segments import Part
from m3etl.spec.catalog import find_array, select_arrays
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import ArrayScenes, ArrayStatus, max_request_bytes
from m3etl.spec.modality import Shape


def job_of(chip_px: int = 32, *, check: bool = False, absent: tuple[str, ...] = ()) -> PixelJob:
    chip = ChipGrid(chip_id=f"32632-{chip_px * 10}-1000-10000", epsg=32632, xmin=5e5, ymax=5.3e6, chip_px=chip_px)
    scenes = {
        spec.name: ArrayScenes(
            status=ArrayStatus.NO_SCENE if spec.name in absent else ArrayStatus.OK, scene_ids=(f"{spec.name}/1",)
        )
        for spec in select_arrays()
    }
    return PixelJob(chip=chip, specs={spec.name: spec for spec in select_arrays()}, scenes=scenes, check=check)


def fetched(job: PixelJob, requests) -> dict[str, np.ndarray]:
    parts = []
    for request in requests:
        body = pixels(request)
        read_answer(request, body)
        parts.append(Part(asked=request.asked(), body=body))
    return arrays_of(parts, job.specs, job.chip, {})


def test_one_request_for_all_rasters_of_an_ordinary_chip():
    job = job_of(128, absent=("sentinel2_l1c",))
    (request,) = plan_requests(job)
    rasters = {spec.name for spec in select_arrays() if spec.shape is Shape.RASTER}
    assert set(request.arrays) == rasters - {"sentinel2_l1c"}
    assert request.window.width == 128


def test_a_chip_without_scenes_needs_no_request():
    job = job_of(absent=tuple(spec.name for spec in select_arrays()))
    assert plan_requests(job) == []


def test_a_big_chip_is_split_before_it_is_sent():
    requests = plan_requests(job_of(1000))
    assert len(requests) > 1
    assert all(request.nbytes <= max_request_bytes for request in requests)
    assert sorted(name for request in requests for name in request.arrays) == sorted(job_of().wanted())
    rows = plan_requests(job_of(3000, absent=tuple(set(job_of().wanted()) - {"sentinel2_l1c"})))
    assert [request.window.top for request in rows] == [0, *(request.window.bottom for request in rows[:-1])]
    assert rows[-1].window.bottom == 3000


@given(st.data())
def test_pieces_give_the_same_chip_as_the_whole(data):
    job = job_of(check=data.draw(st.booleans()))
    whole = fetched(job, plan_requests(job))
    pieces = plan_requests(job)
    for _ in range(data.draw(st.integers(0, 8))):
        index = data.draw(st.integers(0, len(pieces) - 1))
        cut = halves(pieces[index])
        if cut is not None:
            pieces[index : index + 1] = cut
    order = data.draw(st.permutations(range(len(pieces))))
    found = fetched(job, [pieces[index] for index in order])
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert values.shape == find_array(name).chip_shape(320.0)


def test_splitting_ends():
    (request,) = plan_requests(job_of())
    parts, steps = [request], 0
    while parts:
        steps += 1
        cut = halves(parts.pop())
        parts.extend(cut or [])
    assert steps < 60


def test_an_array_can_be_left_out():
    (request,) = plan_requests(job_of())
    less = without(request, ["worldcover", "dynamic_world"])
    assert set(request.arrays) - set(less.arrays) == {"worldcover", "dynamic_world"}
    assert without(less, less.arrays) is None


def test_a_pickle_is_never_loaded():
    (request,) = plan_requests(job_of())
    array = np.array([{"a": 1}], dtype=object)
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    for body in (stream.getvalue(), pickle.dumps(array)):
        with pytest.raises(RequestFailed) as caught:
            read_answer(request, body)
        assert caught.value.failure.kind is Kind.TRANSIENT


def test_another_byte_order_is_the_same_type():
    job = job_of(absent=tuple(set(job_of().wanted()) - {"sentinel1_asc"}))
    (request,) = plan_requests(job)
    fields = np.load(io.BytesIO(pixels(request)))
    stream = io.BytesIO()
    np.save(stream, fields.astype([(name, ">i2") for name in fields.dtype.names]))
    read_answer(request, stream.getvalue())
    found = arrays_of([Part(asked=request.asked(), body=stream.getvalue())], job.specs, job.chip, {})
    np.testing.assert_array_equal(found["sentinel1_asc"], fetched(job, [request])["sentinel1_asc"])


@pytest.mark.parametrize("field", ["xmin", "ymax"])
@pytest.mark.parametrize("shift", [-10, 10, 5])
def test_the_check_band_sees_half_a_pixel(field, shift):
    job = job_of(check=True)
    (request,) = plan_requests(job)
    moved = replace(job, chip=replace(job.chip, **{field: getattr(job.chip, field) + shift}))
    with pytest.raises(RequestFailed, match="off the chip's grid"):
        read_answer(request, pixels(replace(request, job=moved)))


def test_the_check_band_holds_across_the_antimeridian():
    job = job_of(check=True)
    chip = replace(job.chip, epsg=32601, xmin=300_000.0, ymax=200.0)
    (request,) = plan_requests(replace(job, chip=chip))
    assert read_answer(request, pixels(request))["worldcover"] == 1.0


class TestChips:
    """Joining the requests of a chip."""

    def make(self):
        failed = []
        chips = Chips(fail=lambda chip_id, failure: failed.append((chip_id, failure.kind)))
        return chips, failed

    def answer(self, request):
        body = pixels(request)
        return take_answer(request, body)

    def test_a_chip_is_whole_when_its_last_part_has_come(self):
        chips, failed = self.make()
        (request,) = list(chips.start(iter([job_of()])))
        parts = chips.split(request, Failure(kind=Kind.TOO_LARGE, message="memory"))
        assert chips.arrived([self.answer(parts[1])]) == []
        (whole,) = chips.arrived([self.answer(parts[0])])
        assert len(whole.parts) == 2
        assert not failed

    def test_parts_lie_in_one_order_whatever_came_first(self):
        wholes = []
        for flip in (False, True):
            chips, _ = self.make()
            (request,) = list(chips.start(iter([job_of()])))
            parts = chips.split(request, Failure(kind=Kind.TOO_LARGE, message="memory"))
            answers = [self.answer(part) for part in (parts[::-1] if flip else parts)]
            wholes += chips.arrived(answers)
        assert wholes[0] == wholes[1]

    def test_one_lost_part_loses_the_chip_once(self):
        chips, failed = self.make()
        (request,) = list(chips.start(iter([job_of()])))
        parts = chips.split(request, Failure(kind=Kind.TOO_LARGE, message="memory"))
        chips.give_up(parts[0], Failure(kind=Kind.TRANSIENT, message="x"))
        chips.give_up(parts[1], Failure(kind=Kind.TRANSIENT, message="x"))
        assert chips.arrived([]) == []
        assert failed == [(job_of().chip.chip_id, Kind.TRANSIENT)]

    def test_a_vanished_asset_that_was_never_asked_for_is_no_excuse(self):
        chips, _ = self.make()
        (request,) = list(chips.start(iter([job_of()])))
        failure = Failure(kind=Kind.SOURCE_CHANGED, message="gone", asset="something else")
        assert chips.split(request, failure) is None

    def test_no_data_narrows_down_to_the_array(self):
        chips, failed = self.make()
        todo = list(chips.start(iter([job_of()])))
        failure = Failure(kind=Kind.NO_DATA, message="Image with no bands")
        answers = []
        while todo:
            request = todo.pop()
            if "canopy_height" in request.arrays:
                todo += chips.split(request, failure)
            else:
                answers.append(self.answer(request))
        (whole,) = chips.arrived(answers)
        assert whole.statuses == {"canopy_height": ArrayStatus.NO_SCENE}
        assert not failed


def test_ok_needs_an_observation():
    optical, static = find_array("sentinel2_l2a"), find_array("worldcover")
    assert final_status(optical, ArrayStatus.OK, None, 0.3) is ArrayStatus.OK
    assert final_status(optical, ArrayStatus.OK, None, 0.0) is ArrayStatus.INVALID
    assert final_status(static, ArrayStatus.OK, None, 0.0) is ArrayStatus.NO_SCENE
    assert final_status(static, ArrayStatus.OK, ArrayStatus.SOURCE_CHANGED, 0.0) is ArrayStatus.SOURCE_CHANGED
