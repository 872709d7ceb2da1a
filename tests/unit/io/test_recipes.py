"""Recipes through the real client: each published trap of the sources, on scenes with known values."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.scenery import Scene, left, session_over, top

from m3etl.io.answers import arrays_of, read_answer, take_answer
from m3etl.io.bodies import RequestBodies
from m3etl.io.outcomes import Kind, RequestFailed
from m3etl.io.pixels import PixelJob, expression_of, halves, plan_block, plan_requests, split_block
from m3etl.io.segments import Part
from m3etl.spec.catalog import find_array
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import ArrayScenes, ArrayStatus
from m3etl.spec.modality import valid_of

chip = ChipGrid(chip_id="32632-0640-0781-8281", epsg=32632, xmin=left, ymax=top, chip_px=64)
l2a, l1c = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"
scores = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
half = (left - 5000, top - 5000, left + 320, top + 5000)
steps = (np.arange(64) + 0.5) * 10
east, south = np.meshgrid(steps, steps)


def slope_x(x, y):
    return 2 * (x - left) + 1000


def constant(value):
    return lambda x, y: np.full(np.shape(x), float(value))


def decibel(power):
    return lambda x, y: 10 * np.log10(power(x, y))


def ramp_power(x, y):
    return (x - left + 7000) / 1e4


def angle_of(x, y):
    return 38 + (x - left) / 1000


def striped(x, y):
    return np.where(np.floor((x - left) / 10) % 2 == 0, 1.0, 0.001)


scenes = [
    Scene(f"{l2a}/gaps", {"B2": ("uint16", slope_x), "B8": ("uint16", constant(4321)), "SCL": ("uint8", constant(4))}),
    Scene(f"{l1c}/edge", {"B8A": ("uint16", slope_x), "B10": ("uint16", constant(65535))}, bounds=half),
    Scene(
        f"{l2a}/masked",
        {"SCL": ("uint8", lambda x, y: np.where(x < left + 100, 0, 9)), "B4": ("uint16", constant(1))},
        shift_m=0,
    ),
    Scene(f"{scores}/masked", {"cs": ("float64", constant(0.257)), "cs_cdf": ("float64", constant(0.996))}),
    Scene("COPERNICUS/S1_GRD/ramp", {"VV": ("float64", decibel(ramp_power)), "angle": ("float32", constant(30))}),
    Scene(
        "COPERNICUS/S1_GRD/ice",
        {"HH": ("float64", constant(-6)), "HV": ("float64", constant(-13)), "angle": ("float32", angle_of)},
        bounds=half,
    ),
    Scene(
        "COPERNICUS/S1_GRD/stripes", {"VV": ("float64", decibel(striped)), "VH": ("float64", constant(-95))}, shift_m=5
    ),
    Scene("COPERNICUS/S1_GRD/west", {"VV": ("float64", constant(-10)), "VH": ("float64", constant(-20))}, bounds=half),
    Scene(
        "COPERNICUS/S1_GRD/east",
        {"VV": ("float64", constant(-5))},
        bounds=(left + 300, top - 5000, left + 5000, top + 5000),
    ),
    Scene(
        "projects/sat-io/open-datasets/ASTER/GDEM",
        {"b1": ("float64", lambda x, y: 0.5 * (x - left) - 0.25 * (y - top))},
    ),
    Scene(
        "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1",
        {"b1": ("uint8", lambda x, y: np.where(x < left + 200, 255, 7))},
        shift_m=0,
    ),
    Scene("users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1", {"b1": ("uint8", constant(3))}),
    Scene("ESA/WorldCover/v100/a", {"Map": ("uint8", lambda x, y: np.where(x < left + 320, 10, 0))}, shift_m=0),
    Scene("ESA/WorldCover/v100/b", {"Map": ("uint8", constant(95))}, bounds=half, shift_m=0),
    *(
        Scene(f"GOOGLE/DYNAMICWORLD/V1/{name}", {"label": ("uint8", constant(code))}, bounds=bounds)
        for name, code, bounds in (("a", 8, half), ("b", 8, half), ("c", 1, None), ("d", 4, None), ("stray", 4, None))
    ),
]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with session_over(scenes, tmp_path_factory.mktemp("state")) as opened:
        yield opened


def fetch(session, scene_ids, *, check=False, promised=None):
    """The arrays of the chip made of these scenes, stored, after every check of the pixel lane."""
    specs = {name: find_array(name) for name in scene_ids}
    planned = {
        name: ArrayScenes(status=ArrayStatus.OK, scene_ids=tuple(ids), valid_fraction=promised)
        for name, ids in scene_ids.items()
    }
    job = PixelJob(chip=chip, specs=specs, scenes=planned, check=check)
    (request,) = plan_requests(job)
    body = session.compute_pixels(expression_of(request))
    read_answer(request, body)
    return arrays_of([Part(asked=request.asked(), body=body)], specs, chip, {})


def test_missing_bands_are_fill_and_never_shift_others(session):
    spec = find_array("sentinel2_l2a")
    values = fetch(session, {"sentinel2_l2a": [f"{l2a}/gaps"]})["sentinel2_l2a"]
    bands = dict(zip(spec.bands, values, strict=True))
    assert np.abs(bands["B2"] - (2 * east + 1000)).max() <= 0.5
    assert (bands["B8"] == 4321).all()
    for name in set(spec.bands) - {"B2", "B8"}:
        assert (bands[name] == spec.fill).all(), name


def test_footprint_edge_is_fill_and_a_value_at_the_fill_is_clamped(session):
    spec = find_array("sentinel2_l1c")
    values = fetch(session, {"sentinel2_l1c": [f"{l1c}/edge"]})["sentinel2_l1c"]
    b8a, b10 = values[spec.bands.index("B8A")], values[spec.bands.index("B10")]
    assert (b8a[:, 34:] == spec.fill).all()
    assert np.abs(b8a[:, :30] - (2 * east + 1000)[:, :30]).max() <= 0.5
    assert (b10[:, :30] == 65534).all()


def test_radar_is_resampled_in_linear_power(session):
    values = fetch(session, {"sentinel1_asc": ["COPERNICUS/S1_GRD/ramp"]})["sentinel1_asc"]
    power = 10 ** (values[0] * 0.01 / 10)
    assert np.abs(power - (east + 7000) / 1e4).max() < 0.002
    stripes = fetch(session, {"sentinel1_asc": ["COPERNICUS/S1_GRD/stripes"]})["sentinel1_asc"]
    # Half a pixel off, every pixel is the mean of 0 dB and -30 dB: -3 dB in power (it would be -15 dB if averaged in
    # dB). assert np.abs(stripes[0] * 0.01 - 10 * np.log10(0.5005)).max() < 0.011
    assert (stripes[1] == -8000).all(), "below the valid range: clamped, not fill"
    assert (stripes[2:] == -32768).all(), "HH and HV were not acquired"


def test_the_incidence_angle_is_that_of_the_same_scene_in_the_same_request(session):
    scene = ["COPERNICUS/S1_GRD/ice"]
    found = fetch(session, {"sentinel1_asc": scene, "sentinel1_asc_angle": scene}, check=True)  # one request, or raises
    backscatter, angle = found["sentinel1_asc"], found["sentinel1_asc_angle"]
    assert backscatter.shape == (4, 64, 64)
    assert (backscatter[:2] == -32768).all(), "VV and VH were not acquired"
    assert (backscatter[2][:, :31] == -600).all()
    assert (backscatter[3][:, :31] == -1300).all()
    expected = 100 * angle_of(left + east, 0)
    np.testing.assert_allclose(angle[0][:, :31], expected[:, :31], atol=0.6)
    np.testing.assert_array_equal(angle[0] == -32768, backscatter[2] == -32768)
    assert (angle[0][:, 33:] == -32768).all(), "an angle where nothing was observed says nothing"


def test_a_scene_without_an_angle_has_fill(session):
    found = fetch(session, {"sentinel1_desc_angle": ["COPERNICUS/S1_GRD/west", "COPERNICUS/S1_GRD/east"]})
    assert (found["sentinel1_desc_angle"] == -32768).all()


def test_slices_of_a_pass_are_joined_and_gaps_stay_fill(session):
    joined = fetch(session, {"sentinel1_desc": ["COPERNICUS/S1_GRD/west", "COPERNICUS/S1_GRD/east"]})["sentinel1_desc"]
    assert (joined[0][:, :28] == -1000).all()
    assert (joined[0][:, 34:] == -500).all()
    assert (joined[1][:, :28] == -2000).all()
    assert (joined[1][:, 34:] == -32768).all(), "the eastern slice has no VH"


def test_coarse_arrays_ride_in_the_same_request_on_their_own_grid(session):
    found = fetch(
        session,
        {name: ["projects/sat-io/open-datasets/ASTER/GDEM"] for name in ("aster_elevation", "aster_slope")},
    )
    height, slope = found["aster_elevation"][0], found["aster_slope"][0]
    assert height.shape == slope.shape == (21, 21)
    centres = (np.arange(21) + 0.5) * (640 / 21)
    x, y = np.meshgrid(centres, centres)
    assert np.abs(height - (0.5 * x + 0.25 * y)).max() <= 0.51
    wanted = np.degrees(np.arctan(np.hypot(0.5, 0.25))) * 100
    assert np.abs(slope - wanted).max() <= 2, "hundredths of a degree, and no lost rim"


def test_coarse_and_fine_arrays_share_one_request(session):
    found = fetch(
        session,
        {"sentinel2_l2a": [f"{l2a}/gaps"], "aster_elevation": ["projects/sat-io/open-datasets/ASTER/GDEM"]},
        check=True,
    )
    assert found["sentinel2_l2a"].shape == (12, 64, 64)
    assert found["aster_elevation"].shape == (1, 21, 21)


def test_no_data_code_of_canopy_height_is_not_a_height(session):
    ids = ["users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1", "users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1"]
    height, deviation = fetch(session, {"canopy_height": ids})["canopy_height"]
    assert set(np.unique(height)) == {7, 255}
    assert (height[:, :20] == 255).all()
    assert (height[:, 20:] == 7).all()
    assert (deviation == 3).all()


def test_codes_outside_the_table_never_become_a_class(session):
    found = fetch(session, {"worldcover": ["ESA/WorldCover/v100/a"]})["worldcover"][0]
    assert (found[:, :32] == 10).all()
    assert (found[:, 32:] == 255).all()


def test_tiles_of_a_map_are_mosaicked(session):
    ids = ["ESA/WorldCover/v100/a", "ESA/WorldCover/v100/b"]
    assert (fetch(session, {"worldcover": ids})["worldcover"][0][:, :32] == 95).all()


def test_the_composite_is_made_of_exactly_the_planned_images(session):
    def labels(*names):
        ids = [f"GOOGLE/DYNAMICWORLD/V1/{name}" for name in names]
        return fetch(session, {"dynamic_world": ids})["dynamic_world"][0]

    three = labels("a", "b", "c")
    assert (three[:, :30] == 8).all()
    assert (three[:, 34:] == 1).all()
    assert (labels("c", "d") == 1).all(), "the smallest label at a tie"
    assert (labels("d", "c") == 1).all()
    assert (labels("c", "d", "stray") == 4).all()


def test_cloud_layers_and_scene_classification(session):
    cs, cdf, scl = fetch(session, {"sentinel2_cloud": [f"{scores}/masked", f"{l2a}/masked"]})["sentinel2_cloud"]
    assert (cs == 26).all()
    assert (cdf == 100).all()
    assert (scl[:, :10] == 255).all(), "code 0 of SCL is no data"
    assert (scl[:, 10:] == 9).all()
    cs, cdf, scl = fetch(session, {"sentinel2_cloud": [f"{l2a}/masked"]})["sentinel2_cloud"]
    assert (cs == 255).all()
    assert (scl[:, 10:] == 9).all()


def test_an_image_that_vanished_is_named(session):
    with pytest.raises(RequestFailed) as caught:
        fetch(session, {"dynamic_world": ["GOOGLE/DYNAMICWORLD/V1/a", "GOOGLE/DYNAMICWORLD/V1/vanished"]})
    assert caught.value.failure.kind is Kind.SOURCE_CHANGED
    assert caught.value.failure.asset == "GOOGLE/DYNAMICWORLD/V1/vanished"


def test_everything_arrives_in_stored_dtype(session):
    found = fetch(
        session,
        {
            "sentinel2_l2a": [f"{l2a}/gaps"],
            "sentinel1_asc": ["COPERNICUS/S1_GRD/ramp"],
            "worldcover": ["ESA/WorldCover/v100/a"],
        },
        check=True,
    )
    for name, values in found.items():
        spec = find_array(name)
        assert values.dtype == np.dtype(spec.dtype)
        known = values[valid_of(spec, values)]
        assert known.min() >= spec.stored_min - 1e-6
        assert known.max() <= spec.stored_max + 1e-6


def test_a_chip_is_the_same_alone_in_a_block_and_after_a_split(session):
    ids = {
        "sentinel2_l2a": [f"{l2a}/gaps"],
        "sentinel1_asc": ["COPERNICUS/S1_GRD/ramp"],
        "sentinel1_desc": ["COPERNICUS/S1_GRD/west", "COPERNICUS/S1_GRD/east"],
        "aster_elevation": ["projects/sat-io/open-datasets/ASTER/GDEM"],
        "aster_slope": ["projects/sat-io/open-datasets/ASTER/GDEM"],
        "canopy_height": [f"users/nlang/ETH_GlobalCanopyHeight{name}_2020_10m_v1" for name in ("", "SD")],
        "worldcover": ["ESA/WorldCover/v100/a", "ESA/WorldCover/v100/b"],
        "dynamic_world": [f"GOOGLE/DYNAMICWORLD/V1/{name}" for name in ("a", "b", "c")],
    }
    specs = {name: find_array(name) for name in ids}
    planned = {name: ArrayScenes(status=ArrayStatus.OK, scene_ids=tuple(found)) for name, found in ids.items()}
    grids = [
        ChipGrid(
            chip_id=f"32632-0640-{column:04d}-{row:04d}",
            epsg=32632,
            xmin=column * 640.0,
            ymax=(row + 1) * 640.0,
            chip_px=64,
        )
        for row in (8280, 8281)
        for column in (780, 781)
    ]
    jobs = [PixelJob(chip=grid, specs=specs, scenes=planned, check=True) for grid in grids]

    def stored(requests):
        pieces = [
            piece
            for item in requests
            for piece in take_answer(item, session.compute_pixels(RequestBodies().body(item)))
        ]
        return {
            job.chip.chip_id: arrays_of([item.part for item in pieces if item.job is job], specs, job.chip, {})
            for job in jobs
        }

    alone = stored([request for job in jobs for request in plan_requests(job)])
    (block,) = plan_block(jobs, 2)
    for way in ([block], split_block(block), [half for part in split_block(block) for half in halves(part)]):
        found = stored(way)
        for chip_id, arrays in alone.items():
            assert arrays.keys() == found[chip_id].keys() == specs.keys()
            for name, values in arrays.items():
                np.testing.assert_array_equal(found[chip_id][name], values, err_msg=f"{chip_id} {name}")
    shown = alone["32632-0640-0781-8281"]
    assert all(valid_of(specs[name], values).any() for name, values in shown.items()), "there is something to compare"
