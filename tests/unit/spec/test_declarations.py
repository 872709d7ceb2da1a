"""A user's TOML: what it declares, and every mistake with its line."""

from __future__ import annotations

import pytest

from m3etl.errors import InputError
from m3etl.spec.declarations import parse_declarations
from m3etl.spec.modality import Resampling, Temporal, Values
from m3etl.spec.program import Comparison, Window

land_cover = """
[[array]]
name = "esri_land_cover"
title = "ESRI land cover of the anchor's year"
asset = "projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m_TS"
bands = { label = "b1" }
values = "classes"
window = "year"
dtype = "uint8"
fill = 255
native_gsd_m = 10
license = "CC-BY-4.0"
label_family = "land_cover"
classes = [
  { code = 1, name = "water", color = "#1a5bab" },
  { code = 2, name = "trees" },
]
"""
backscatter = """
[[array]]
name = "s1_seasons"
asset = "COPERNICUS/S1_GRD"
bands = ["VV", "VH"]
reducers = ["mean", "p90"]
period = "seasons"
window = "seasons"
decibel = true
dtype = "int16"
fill = -32768
scale = 0.01
units = "dB"
valid_min = -60
valid_max = 30
native_gsd_m = 10
filters = [
  { property = "instrumentMode", equals = "IW" },
  { property = "transmitterReceiverPolarisation", contains = "VH" },
]
masks = [{ band = "angle", at_least = 30, at_most = 46 }]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_declarations(text, file="mine.toml")
    return caught.value.message.splitlines()


def test_a_class_map_of_the_year() -> None:
    (spec,) = parse_declarations(land_cover, file="mine.toml")
    assert (spec.name, spec.modality, spec.bands, spec.fill) == ("esri_land_cover", "esri_land_cover", ("label",), 255)
    assert (spec.values, spec.resampling, spec.temporal) == (Values.CLASSES, Resampling.NEAREST, Temporal.YEAR)
    assert (spec.valid_min, spec.valid_max) == (1, 2)
    assert [item.name for item in spec.classes] == ["water", "trees"]
    assert spec.program is not None
    assert spec.program.outputs[0].reducer == "mode"
    assert spec.program.bands == ("b1",)


def test_seasonal_statistics_in_linear_power() -> None:
    (spec,) = parse_declarations(backscatter, file="mine.toml")
    assert spec.bands[:3] == ("DJF_VV_mean", "DJF_VV_p90", "DJF_VH_mean")
    assert len(spec.bands) == 16
    assert spec.periods == ("DJF", "MAM", "JJA", "SON")
    assert spec.band_names == ("VV_mean", "VV_p90", "VH_mean", "VH_p90")
    assert spec.resampling is Resampling.BILINEAR_LINEAR_POWER
    assert spec.temporal is Temporal.SEASONS
    program = spec.program
    assert program is not None
    assert (program.window, program.decibel) == (Window.SEASONS, True)
    assert [item.comparison for item in program.filters] == [Comparison.EQUALS, Comparison.CONTAINS]
    assert (program.masks[0].at_least, program.masks[0].at_most) == (30, 46)


def test_two_arrays_in_one_file() -> None:
    assert [spec.name for spec in parse_declarations(land_cover + backscatter, file="f")] == [
        "esri_land_cover",
        "s1_seasons",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "fill = 255",
            "fill = 1",
            "mine.toml:10: array 'esri_land_cover' is declared wrongly: fill 1 is also the code",
        ),
        ('dtype = "uint8"', 'dtype = "byte"', "mine.toml:9: dtype must be one of uint8"),
        ('dtype = "uint8"\n', "", "mine.toml:2: the key 'dtype' is missing"),
        ('window = "year"', 'window = "decade"', "mine.toml:8: window must be one of static"),
        ('bands = { label = "b1" }', "bands = []", "mine.toml:6: bands must be a list of band names"),
        ("native_gsd_m = 10", 'native_gsd_m = "10"', "mine.toml:11: native_gsd_m must be a number, found '10'"),
        ('title = "', 'titel = "', "mine.toml:4: unknown key 'titel'"),
        ('code = 2, name = "trees"', 'code = 2, nam = "trees"', "classes: unknown key nam"),
        ('name = "esri_land_cover"', 'name = "ESRI land"', "mine.toml:3: the name 'ESRI land' must be lower case"),
        ('window = "year"', 'window = "year"\nreducers = ["average"]', "unknown reducer 'average'"),
    ],
)
def test_a_mistake_is_named_with_its_line(old: str, new: str, expected: str) -> None:
    found = problems(land_cover.replace(old, new))
    assert len(found) == 1
    assert expected in found[0]


def test_all_mistakes_are_told_at_once() -> None:
    text = land_cover.replace("fill = 255", "fill = 1") + backscatter.replace("decibel = true", 'decibel = "yes"')
    assert len(problems(text)) == 2


def test_a_file_without_arrays_and_one_that_is_no_toml() -> None:
    assert "declares no array" in problems("")[0]
    assert "unknown table 'modality'" in problems("[modality]\nname = 'x'")[0]
    assert "is no TOML" in problems("[[array]\n")[0]
    assert "declared twice" in problems(land_cover + land_cover)[0]
