"""Planning questions through the real client: scores over the chip, unknown cloud, passes, composites, climate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes.scenery import Scene, left, session_over, top

from m3etl.io.planning import (
    Anchored,
    Questions,
    Wanted,
    either_level,
    encode_form,
    question_expression,
    read_question,
)
from m3etl.spec.catalog import select_arrays
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.declarations import parse_declarations
from m3etl.spec.scenes import day_ms, utc_ms, year_window

chip = ChipGrid(chip_id="32632-0640-0781-8281", epsg=32632, xmin=left, ymax=top, chip_px=64)
far = ChipGrid(chip_id="32632-0640-0001-8281", epsg=32632, xmin=left - 200_000, ymax=top, chip_px=64)
l2a, l1c = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"
scores = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
june = utc_ms("2020-06-10T10:00:00Z")
west_half = (left - 5000, top - 5000, left + 320, top + 5000)


def west_of(edge, inside, outside):
    return lambda x, y: np.where(x < left + edge, inside, outside)


def optical(index, cloudy, *, day=0, level=l2a, bounds=None, **bands):
    found = {"B4": ("uint16", lambda x, y: 100 + 0 * x), **bands}
    options = {} if bounds is None else {"bounds": bounds}
    return Scene(
        f"{level}/{index}",
        found,
        time_ms=june + day * day_ms,
        properties={"CLOUDY_PIXEL_PERCENTAGE": cloudy},
        **options,
    )


def radar(index, *, day, direction="ASCENDING", mode="IW", bounds=None):
    options = {} if bounds is None else {"bounds": bounds}
    properties = {
        "instrumentMode": mode,
        "orbitProperties_pass": direction,
        "relativeOrbitNumber_start": 44,
        "transmitterReceiverPolarisation": ["VV", "VH"],
    }
    return Scene(
        f"COPERNICUS/S1_GRD/{index}",
        {"VV": ("float64", lambda x, y: -10 + 0 * x)},
        time_ms=june + round(day * day_ms),
        properties=properties,
        **options,
    )


def declared(index, *, day, bounds=None):
    options = {} if bounds is None else {"bounds": bounds}
    bands = {"VV": ("float32", lambda x, y: 0 * x)}
    return Scene(f"OPERA/RTC/L2_V1/S1/{index}", bands, time_ms=june + round(day * day_ms), **options)


def month(year, number, temperature):
    bands = {
        "temperature_2m": ("float64", lambda x, y: temperature + 0 * x),
        "temperature_2m_min": ("float64", lambda x, y: temperature - 5 + 0 * x),
        "temperature_2m_max": ("float64", lambda x, y: temperature + 5 + 0 * x),
        "total_precipitation_sum": ("float64", lambda x, y: np.where(x < left + 320 - 11132, 0.1, 0.1)),
    }
    start = utc_ms(f"{year}-{number:02d}-01T00:00:00Z")
    index = f"{year}{number:02d}"
    return Scene(f"ECMWF/ERA5_LAND/MONTHLY_AGGR/{index}", bands, time_ms=start, pixel_m=11_132.0)


scenes = [
    optical("scored", 40.0, QA60=("uint16", west_of(320, 1024, 0))),
    Scene(f"{scores}/scored", {"cs_cdf": ("float64", west_of(160, 0.3, 0.9))}, time_ms=june),
    optical("classified", 10.0, day=5, SCL=("uint8", west_of(480, 9, 4))),
    optical("masked", 20.0, day=10, QA60=("uint16", west_of(320, 1 << 11, 0))),
    optical("unknown", 30.0, day=15),
    optical("partial", 50.0, day=20, bounds=west_half),
    *(optical(f"cloudy{number}", 60.0 + number, day=30 + number) for number in range(8)),
    optical("next year", 0.0, day=365),
    optical("scored", 40.0, level=l1c),
    optical("unprocessed", 35.0, day=-60, level=l1c),
    declared("before", day=-3),
    declared("west", day=1, bounds=west_half),
    declared("east", day=1 + 20 / 86_400),
    declared("late", day=5),
    declared("elsewhere", day=0.1, bounds=(left - 9000, top - 9000, left - 5500, top - 5500)),
    radar("near", day=1),
    radar("nearer but outside", day=0.5, bounds=(left - 5000, top - 5000, left - 100, top + 5000)),
    radar("half", day=-2, bounds=west_half),
    radar("too late", day=31),
    radar("other pass", day=0.2, direction="DESCENDING"),
    radar("other mode", day=0.1, mode="EW"),
    *(
        Scene(
            f"GOOGLE/DYNAMICWORLD/V1/{year}_{number}",
            {"label": ("uint8", lambda x, y: 1 + 0 * x)},
            time_ms=start + number,
        )
        for year, count in ((2019, 3), (2020, 3), (2021, 3), (2022, 420))
        for start in [year_window(year)[0]]
        for number in range(count)
    ),
    Scene(
        "ESA/WorldCover/v100/map", {"Map": ("uint8", lambda x, y: 10 + 0 * x)}, time_ms=utc_ms("2020-01-01T00:00:00Z")
    ),
    Scene(
        "projects/sat-io/open-datasets/ASTER/GDEM", {"b1": ("int16", lambda x, y: 0 * x)}, properties={"license": "X"}
    ),
    Scene("users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1", {"b1": ("uint8", lambda x, y: 0 * x)}),
    Scene("users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1", {"b1": ("uint8", lambda x, y: 0 * x)}),
    *(month(2019 + (5 + number) // 12, (5 + number) % 12 + 1, 270.0 + number) for number in range(14)),
]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with session_over(scenes, tmp_path_factory.mktemp("state")) as opened:
        yield opened


def ask(session, wanted=(), anchored=(), specs=(), candidates=8):
    expression = question_expression(session.api, wanted, anchored, specs, candidates=candidates, gap_days=30.0)
    return read_question(wanted, anchored, specs, session.compute_value(expression))


def ask_scenes(session, wanted, candidates=8):
    return [list(found) for found in ask(session, wanted, candidates=candidates).scenes]


def wanted(grid=chip, level="l2a", year=2020, **values):
    start, end = year_window(year)
    return Wanted(chip=grid, level=level, **{"start_ms": start, "end_ms": end, **values})


def test_cloud_is_measured_over_the_chip(session):
    (found,) = ask_scenes(session, [wanted()])
    by_index = {item.index: item for item in found}
    assert [item.rank for item in found] == list(range(8))
    assert next(iter(by_index)) == "classified", "granules with little cloud come first"
    assert by_index["scored"].cloud == pytest.approx(0.25, abs=0.08), "Cloud Score+ before QA60"
    assert by_index["scored"].has_cloud_score
    assert by_index["classified"].cloud == pytest.approx(0.75, abs=0.08)
    assert by_index["masked"].cloud == pytest.approx(0.5, abs=0.08)
    assert by_index["unknown"].cloud is None, "no quality band: unknown, not an error"
    assert not by_index["unknown"].has_cloud_score
    assert by_index["partial"].valid == pytest.approx(0.5, abs=0.08)
    assert by_index["scored"].valid == 1.0
    assert by_index["scored"].scene_id == f"{l2a}/scored"
    assert by_index["scored"].time_ms == june
    assert by_index["scored"].synthetic


def test_years_are_half_open_and_places_apart(session):
    here, later, there = ask_scenes(session, [wanted(), wanted(year=2021), wanted(far)])
    assert len(here) == 8
    assert [item.index for item in later] == ["next year"]
    assert there == []


def test_a_wished_moment_ranks_by_distance(session):
    near = {"wish_ms": june + day_ms, "start_ms": june - day_ms, "end_ms": june + 12 * day_ms}
    processed, raw = ask_scenes(session, [wanted(**near), wanted(level="l1c", **near)], candidates=2)
    assert [(item.level, item.index) for item in processed] == [("l2a", "scored"), ("l2a", "classified")]
    assert [(item.level, item.index) for item in raw] == [("l1c", "scored")]


def test_either_level_is_the_whole_archive_of_1c_as_2a_where_that_exists(session):
    (found,) = ask_scenes(session, [wanted(level=either_level)])
    assert [(item.level, item.scene_id) for item in found] == [
        ("l1c", f"{l1c}/unprocessed"),
        ("l2a", f"{l2a}/scored"),
    ]
    assert found[1].has_cloud_score


def anchor(*, grid=chip, points=((9.0043, 47.853),), time_ms=june, index="scored", other="", when=(2020, 6)):
    return Anchored(
        chip=grid,
        points=points,
        time_ms=time_ms,
        index=index,
        year=year_window(when[0]),
        month=when,
        other_level=other,
    )


def ask_companions(session, *, modalities=(), **values):
    return ask(session, (), [anchor(**values)], select_arrays(modalities)).companions[0]


def test_companions_of_an_anchor(session):
    found = ask_companions(session, other="l1c")
    ascending = [item.scene_id.rpartition("/")[2] for item in found.passes["sentinel1_asc"]]
    assert ascending == ["near", "half"], "within the gap, of this pass and mode, meeting the chip, the nearest first"
    assert [item.coverage for item in found.passes["sentinel1_asc"]] == [1.0, pytest.approx(0.5, abs=0.08)]
    assert found.passes["sentinel1_asc"][0].orbit == 44
    assert found.passes["sentinel1_asc"][0].polarisations == ("VV", "VH")
    assert [item.scene_id.rpartition("/")[2] for item in found.passes["sentinel1_desc"]] == ["other pass"]
    labels = found.composites["dynamic_world"]
    assert labels.scene_ids == tuple(f"GOOGLE/DYNAMICWORLD/V1/2020_{number}" for number in range(3))
    assert labels.time_ms == year_window(2020)[0]
    assert labels.synthetic
    assert found.composites["worldcover"].scene_ids == ("ESA/WorldCover/v100/map",)
    assert found.composites["aster_elevation"].licenses == ("X",)
    assert len(found.composites["canopy_height"].scene_ids) == 2
    assert [item.index for item in found.other] == ["scored"]
    assert found.cloud_scores.scene_ids == (f"{scores}/scored",)
    assert found.classifications.scene_ids == (), "the anchor has no SCL"


def test_the_nearest_acquisition_is_taken_with_all_its_tiles(session):
    """window = "nearest" of a TOML file: the tiles of one acquisition, none of an earlier or later one."""
    text = """
[[array]]
name = "mine"
asset = "OPERA/RTC/L2_V1/S1"
bands = ["VV"]
window = "nearest"
max_gap_days = 12
dtype = "float32"
native_gsd_m = 10
"""
    specs = parse_declarations(text, file="mine.toml")
    (companions,) = ask(session, (), [anchor()], specs).companions
    assert companions.composites["mine"].scene_ids == ("OPERA/RTC/L2_V1/S1/west", "OPERA/RTC/L2_V1/S1/east")
    (none,) = parse_declarations(text.replace("= 12", "= 0.5"), file="mine.toml")
    (companions,) = ask(session, (), [anchor()], [none]).companions
    assert companions.composites["mine"].scene_ids == ()


def test_the_angle_asks_for_no_passes_of_its_own(session):
    both = select_arrays(["sentinel1", "sentinel1_angle"])
    found = ask(session, (), [anchor()], both).companions[0]
    for way in ("asc", "desc"):
        assert found.passes[f"sentinel1_{way}"]
        assert found.passes[f"sentinel1_{way}_angle"] == found.passes[f"sentinel1_{way}"]
    texts = [
        question_expression(session.api, [], [anchor()], specs, candidates=3, gap_days=30)
        for specs in (both, select_arrays(["sentinel1"]))
    ]
    assert texts[0] == texts[1]
    alone = ask(session, (), [anchor()], select_arrays(["sentinel1_angle"])).companions[0]
    assert alone.passes["sentinel1_asc_angle"] == found.passes["sentinel1_asc"]


def test_a_composite_is_made_of_all_images_of_its_year(session):
    found = ask_companions(session, index="", when=(2022, 6), modalities=("dynamic_world",))
    assert len(found.composites["dynamic_world"].scene_ids) == 420


def test_climate_is_the_twelve_months_that_end_with_the_anchors(session):
    found = ask_companions(session, modalities=("era5_temperature", "era5_precipitation"))
    (months,) = found.months
    assert sorted(months) == [(2019 + (6 + item) // 12, (6 + item) % 12 + 1) for item in range(12)]
    assert months[(2020, 6)][0] == pytest.approx(282.0)
    assert months[(2019, 7)][1] == pytest.approx(266.0)
    assert found.climate.scene_ids[0] == "ECMWF/ERA5_LAND/MONTHLY_AGGR/201907"


def test_classification_of_the_same_acquisition_is_found(session):
    found = ask_companions(session, index="classified", modalities=("sentinel2",))
    assert found.classifications.scene_ids == (f"{l2a}/classified",)
    assert found.cloud_scores.scene_ids == ()


def test_without_an_anchor_there_is_nothing_to_join(session):
    found = ask_companions(session, index="", modalities=("sentinel2", "dynamic_world"))
    assert found.cloud_scores.scene_ids == found.classifications.scene_ids == ()
    assert len(found.composites["dynamic_world"].scene_ids) == 3


def test_questions_of_every_kind_go_into_one_request(session):
    near = {"wish_ms": june + day_ms, "start_ms": june - day_ms, "end_ms": june + 12 * day_ms}
    questions = [wanted(), wanted(level="l1c"), wanted(**near), wanted(far), wanted(year=2021)]
    before = session.requests
    both = ask(session, questions, [anchor(), anchor(index="")], select_arrays())
    assert session.requests == before + 1
    for item, found in zip(questions, both.scenes, strict=True):
        assert ask_scenes(session, [item]) == [list(found)]
    assert both.companions[0] == ask_companions(session)
    assert both.companions[1] == ask_companions(session, index="")


def test_a_block_is_asked_about_as_a_whole_and_its_climate_by_chip(session):
    block = ChipGrid(chip_id="b", epsg=32632, xmin=left - 640, ymax=top, chip_px=64, chips=2)
    ((partial,),) = ask_scenes(session, [wanted(block, start_ms=june + 20 * day_ms, end_ms=june + 21 * day_ms)])
    assert partial.valid == pytest.approx(0.75, abs=0.03), "the western half of it and half of the rest"
    ask_for = {"grid": block, "points": ((9.0043, 47.853), (8.99, 47.85), (30.0, 47.85))}
    found = ask_companions(session, modalities=("era5_temperature",), **ask_for)
    here, near, far_away = found.months
    assert here == near
    assert set(far_away.values()) == {(None, None, None, None)}, "outside the image"


def test_an_answer_for_other_chips_is_refused():
    with pytest.raises(ValueError, match="asked about 1 places, the answer has 0"):
        read_question([wanted()], (), (), {"l2a": []})
    with pytest.raises(ValueError, match="asked about 1 anchors, the answer has str"):
        read_question((), [anchor()], (), {"companions": "busy"})
    with pytest.raises(ValueError, match="list, not the parts"):
        read_question([wanted()], (), (), [])


def questions_of(session):
    specs = select_arrays()
    return Questions(specs, lambda form: encode_form(session.api, form, specs, candidates=8, gap_days=30.0))


@pytest.mark.parametrize(
    "item", [wanted(), wanted(far, level="l1c", wish_ms=june), anchor(), anchor(index="", grid=far)]
)
def test_places_are_written_as_the_client_writes_them(session, item):
    text = questions_of(session).expression(
        [item] if isinstance(item, Wanted) else [], [item] if isinstance(item, Anchored) else []
    )
    (part,) = json.loads(text)["values"]["0"]["dictionaryValue"]["values"].values()
    values = json.loads(text)["values"]
    call = (values[part["valueReference"]] if "valueReference" in part else part)["functionInvocationValue"]
    (place,) = call["arguments"]["list"]["arrayValue"]["values"]
    api, grid = session.api, item.chip
    square = api.Geometry.Rectangle([grid.xmin, grid.ymax - 640, grid.xmin + 640, grid.ymax], "EPSG:32632", False)
    numbers = place["functionInvocationValue"]["arguments"]["metadata"]["constantValue"]
    assert numbers["crs"] == "EPSG:32632"
    plain = api.serializer.encode(api.Feature(square, numbers), is_compound=False, for_cloud_api=True)
    assert place == plain


def test_what_is_asked_is_encoded_once(session, monkeypatch):
    encoded = []
    encode = session.api.serializer.encode
    monkeypatch.setattr(
        session.api.serializer, "encode", lambda *item, **more: encoded.append(1) or encode(*item, **more)
    )
    questions = questions_of(session)
    texts = {questions.expression([wanted()], [anchor()])}
    first = len(encoded)
    texts |= {questions.expression([wanted(), wanted(year=year)], [anchor(grid=far)]) for year in range(2017, 2021)}
    assert len(texts) == 5
    assert len(encoded) == first > 0
    questions.expression([wanted()], [])
    assert len(encoded) > first, "another kind of question"
