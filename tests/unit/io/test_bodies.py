"""Bodies made from forms are, byte for byte, what the vendor's client sends for the same chip."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ee
import pytest
from fakes.ee_in_process import client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3etl.io import bodies as bodies_module
from m3etl.io.bodies import RequestBodies
from m3etl.io.pixels import PixelJob, expression_of, halves, plan_requests
from m3etl.io.recipes import list_recipes
from m3etl.spec.catalog import known_arrays, select_arrays
from m3etl.spec.catalog_dates import radar_dates, recipes_of_dates
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import ArrayScenes, ArrayStatus
from m3etl.spec.modality import Shape

rasters = {spec.name: spec for spec in select_arrays() if spec.shape is Shape.RASTER}
l2a, l1c = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"


@pytest.fixture(scope="module", autouse=True)
def initialised():
    with client():
        yield


def sent_by_the_client(request) -> str:
    """The body that `ee.data.computePixels` hands to its transport."""
    seen = []

    def note(call, **options):
        seen.append(call.body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ee.data, "_execute_cloud_call", note)
        patch.setattr(ee.data, "_get_cloud_projects_raw", ee.data._get_cloud_projects)
        ee.data.computePixels(expression_of(request))
    return seen[0]


names = st.text("ABCxyz0123456789_-", min_size=1, max_size=30)


@st.composite
def jobs(draw):
    index = draw(names)
    scenes = {
        "sentinel2_l2a": (f"{l2a}/{index}",),
        "sentinel2_l1c": (f"{l1c}/{index}",),
        "sentinel2_cloud": draw(
            st.sampled_from(
                [
                    (f"GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED/{index}", f"{l2a}/{index}"),
                    (f"GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED/{index}",),
                    (f"{l2a}/other",),
                ]
            )
        ),
        "aster_elevation": ("projects/sat-io/open-datasets/ASTER/GDEM",),
        "aster_slope": ("projects/sat-io/open-datasets/ASTER/GDEM",),
        "canopy_height": ("users/nlang/height", "users/nlang/deviation"),
        "sentinel1_asc": tuple(f"COPERNICUS/S1_GRD/{item}" for item in draw(st.lists(names, min_size=1, max_size=3))),
        "sentinel1_desc": tuple(f"COPERNICUS/S1_GRD/{item}" for item in draw(st.lists(names, min_size=1, max_size=2))),
        "dynamic_world": tuple(
            f"GOOGLE/DYNAMICWORLD/V1/{item}" for item in draw(st.lists(names, min_size=1, max_size=6))
        ),
        "worldcover": tuple(f"ESA/WorldCover/v100/{item}" for item in draw(st.lists(names, min_size=1, max_size=2))),
    }
    wanted = draw(st.sets(st.sampled_from(sorted(scenes)), min_size=1))
    chips = draw(st.sampled_from([1, 1, 4]))
    chip = ChipGrid(
        chip_id=draw(names),
        epsg=draw(st.integers(32601, 32660)),
        xmin=draw(st.integers(0, 90_000)) * 10.0,
        ymax=draw(st.integers(0, 900_000)) * 10.0,
        chip_px=draw(st.sampled_from([64, 128])),
        chips=chips,
    )
    planned = {
        name: ArrayScenes(
            status=ArrayStatus.OK if name in wanted else ArrayStatus.NO_SCENE, scene_ids=scenes.get(name, ())
        )
        for name in rasters
    }
    return PixelJob(chip=chip, specs=rasters, scenes=planned, check=draw(st.booleans()))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(jobs(), min_size=1, max_size=3), st.integers(0, 5))
def test_every_body_is_the_clients_own(found, cuts):
    kept = RequestBodies()
    for job in found:
        (request,) = plan_requests(job)
        for _ in range(cuts):
            request = (halves(request) or [request])[-1]
        # The first comes from the client, the second from the form made of it.
        assert [kept.body(request), kept.body(request)] == [sent_by_the_client(request)] * 2


def chip_job(number: int, images: int = 3) -> PixelJob:
    chip = ChipGrid(chip_id=f"chip {number}", epsg=32601 + number, xmin=number * 1280.0, ymax=5e6, chip_px=128)
    scenes = {
        name: ArrayScenes(status=ArrayStatus.OK, scene_ids=tuple(f"{name}/{number}_{item}" for item in range(count)))
        for name, count in (("sentinel2_l2a", 1), ("dynamic_world", images), ("aster_slope", 1))
    }
    absent = {name: ArrayScenes(status=ArrayStatus.NO_SCENE) for name in rasters if name not in scenes}
    return PixelJob(chip=chip, specs=rasters, scenes={**scenes, **absent}, check=False)


def test_the_client_encodes_only_the_first_of_a_form(monkeypatch):
    calls = []
    encode = bodies_module.encode_request
    monkeypatch.setattr(bodies_module, "encode_request", lambda asked: calls.append(1) or encode(asked))
    kept = RequestBodies()
    requests = [plan_requests(chip_job(number, images=2 + number))[0] for number in range(5)]
    found = [kept.body(request) for request in requests]
    assert len(calls) == 3, "the request itself, its stand-in, and one with more images"
    assert found == [encode(expression_of(request)) for request in requests]


def test_what_no_form_can_say_goes_through_the_client():
    job = chip_job(1)
    twice = ArrayScenes(status=ArrayStatus.OK, scene_ids=("dynamic_world/a", "dynamic_world/a", "dynamic_world/b"))
    (request,) = plan_requests(replace(job, scenes={**job.scenes, "dynamic_world": twice}))
    kept = RequestBodies()
    for _ in range(3):
        assert kept.body(request) == sent_by_the_client(request)
    (other,) = plan_requests(replace(job, scenes={**job.scenes, "dynamic_world": replace(twice, scene_ids=("a/x",))}))
    assert [kept.body(other), kept.body(other)] == [sent_by_the_client(other)] * 2


def test_forms_that_are_forgotten_are_made_again(monkeypatch):
    monkeypatch.setattr(bodies_module, "most_forms", 1)
    kept = RequestBodies()
    for _ in range(2):
        for images in (1, 2):
            (request,) = plan_requests(chip_job(3, images))
            assert kept.body(request) == sent_by_the_client(request)


further = [spec for spec in known_arrays().values() if spec.shape is Shape.RASTER and spec.recipe in list_recipes]


@pytest.mark.parametrize("names", [[spec.name] for spec in further] + [[spec.name for spec in further]], ids=str)
def test_arrays_made_of_any_number_of_images(names):
    specs = {name: known_arrays()[name] for name in names}
    kept = RequestBodies()
    for number, images in enumerate([1, 2, 3, 7, 3, 2]):
        chip = ChipGrid(chip_id=f"{number}", epsg=32601 + number, xmin=number * 1280.0, ymax=5e6, chip_px=128)
        scenes = {
            name: ArrayScenes(
                status=ArrayStatus.OK,
                scene_ids=tuple(f"{spec.source[0]}/{number}_{item}" for item in range(images)),
                time="2020-05-01T00:00:00Z",
            )
            for name, spec in specs.items()
        }
        for request in plan_requests(PixelJob(chip=chip, specs=specs, scenes=scenes, check=False)):
            assert [kept.body(request), kept.body(request)] == [sent_by_the_client(request)] * 2


dated = {spec.name: spec for spec in known_arrays().values() if spec.recipe in recipes_of_dates}


def dated_job(number: int, seasons_of: dict[str, int], *, shared: bool = False) -> PixelJob:
    """A chip with so many scenes in each season; shared: two seasons have the same Sentinel-1 pass nearest."""
    scenes = {}
    for name, spec in dated.items():
        periods = {}
        for season in spec.periods:
            count = seasons_of.get(season, 0)
            of = "MAM" if shared and spec.recipe == radar_dates and season == "DJF" else season
            ids = tuple(f"{spec.source[-1]}/{number}_{of}_{item}" for item in range(count))
            if spec.recipe != radar_dates:
                ids = ids[:1]
            status = ArrayStatus.OK if ids else ArrayStatus.NO_SCENE
            periods[season] = ArrayScenes(status=status, scene_ids=ids)
        scenes[name] = ArrayScenes.of_periods(periods)
    chip = ChipGrid(chip_id=f"c{number}", epsg=32601 + number, xmin=number * 1280.0, ymax=5e6, chip_px=128)
    return PixelJob(chip=chip, specs=dated, scenes=scenes, check=False)


def test_arrays_of_several_dates_whatever_season_is_missing():
    """Chips with as many scenes in other seasons must not share a form: bands would come from the wrong date."""
    kept = RequestBodies()
    cases = [
        ({"DJF": 1, "MAM": 1, "JJA": 1, "SON": 1}, False), ({"DJF": 1, "MAM": 1, "JJA": 1, "SON": 1}, True),
        ({"MAM": 1, "JJA": 1, "SON": 1}, False), ({"DJF": 1, "MAM": 1, "JJA": 1}, False),
        ({"DJF": 2, "JJA": 1}, False), ({"DJF": 1, "JJA": 2}, False), ({"DJF": 1, "JJA": 2}, False),
    ]  # fmt: skip
    bodies = []
    for number, (seasons_of, shared) in enumerate(cases):
        (request,) = plan_requests(dated_job(number, seasons_of, shared=shared))
        assert [kept.body(request), kept.body(request)] == [sent_by_the_client(request)] * 2
        bodies.append(kept.body(request))
    assert len(set(bodies)) == len(cases)


def test_threads_that_meet_the_same_form_make_it_once(monkeypatch):
    calls = []
    encode = bodies_module.encode_request

    def slowly(asked):
        calls.append(1)
        time.sleep(0.02)
        return encode(asked)

    monkeypatch.setattr(bodies_module, "encode_request", slowly)
    request = plan_requests(chip_job(1))[0]
    alone = RequestBodies().body(request)
    once = len(calls)
    bodies = RequestBodies()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(bodies.body, [request] * 8)) == {alone}
    assert len(calls) == 2 * once
