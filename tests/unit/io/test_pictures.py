"""Every array of the catalogue becomes a picture file, observed or not."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from m3etl.io.pictures import (
    _draw_circle,
    _draw_class_bars,
    encode_png,
    write_contact_sheet,
    write_overview,
    write_vector_chart,
)
from m3etl.spec.catalog import arrays
from m3etl.spec.modality import Shape, Values

rasters = [spec for spec in arrays.values() if spec.shape is Shape.RASTER]
vectors = [spec for spec in arrays.values() if spec.shape is Shape.VECTOR]


def stored_chips(spec, count=3):
    rng = np.random.default_rng(1)
    stored = np.full((count, *spec.chip_shape(320)), spec.fill_value())
    shape = (count - 1, *spec.chip_shape(320))
    if spec.values is Values.CLASSES:
        codes = [item.code for item in spec.classes] or [1, 2, 3]
        stored[1:] = rng.choice(codes, shape)
    else:
        high = min(spec.stored_max, 3000)
        stored[1:] = rng.uniform(max(spec.stored_min, -1), high, shape)
    return stored


@pytest.mark.parametrize("spec", rasters, ids=lambda spec: spec.name)
def test_contact_sheet_of_every_raster(tmp_path, spec):
    path = tmp_path / f"{spec.name}.png"
    write_contact_sheet(path, spec, stored_chips(spec), ["one", "two", "three"])
    with Image.open(path) as picture:
        assert picture.width > 300


@pytest.mark.parametrize("spec", vectors, ids=lambda spec: spec.name)
def test_chart_of_every_vector(tmp_path, spec):
    path = tmp_path / f"{spec.name}.png"
    write_vector_chart(path, spec, stored_chips(spec, 12))
    with Image.open(path) as picture:
        assert picture.width > 500  # the title fits
        assert np.asarray(picture.convert("L"))[:, [0, -1]].min() == 255  # nothing is cut off at the sides


def test_overview_has_a_column_per_raster(tmp_path):
    path = tmp_path / "overview.png"
    chosen = [arrays["sentinel2_l2a"], arrays["worldcover"]]
    write_overview(path, chosen, {spec.name: stored_chips(spec) for spec in chosen}, ["one", "two", "three"])
    assert path.stat().st_size > 1000


def test_png_bytes_are_deterministic():
    picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    assert encode_png(picture) == encode_png(picture)
    assert encode_png(picture).startswith(b"\x89PNG")


def test_bars_count_whole_chips_and_long_names_end_in_dots():
    axis = Figure().subplots()
    _draw_class_bars(axis, arrays["biome"], np.array([2.0, 2.0, 11.0, 0.0]))
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "Mediterranean Forests, Woodlands & Scrub",
        "Tundra",
        "Tropical & Subtropical Grasslands, Sava…",
    ]
    assert axis.get_xlabel() == "chips (3 classes)"
    assert all(float(tick).is_integer() for tick in axis.get_xticks())


def test_labels_of_circles_do_not_overlap():
    axis = Figure().subplots()
    _draw_circle(axis, ("sin_month", "cos_month"), np.array([[0.0, 1.0]]))
    assert list(axis.get_xticks()) == list(axis.get_yticks()) == [-1, 0, 1]
