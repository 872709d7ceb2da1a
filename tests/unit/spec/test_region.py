"""Regions from documents and geometries: what is accepted, and that every problem is named at once."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from m3etl.errors import InputError
from m3etl.spec.region import region_from_document, region_from_geometry

square = [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]


def test_document_makes_a_region():
    region = region_from_document(
        {"name": "a", "title": "A", "polygons": [square, [[10, 0], [11, 0], [11, 1]]]}, "a.toml"
    )
    assert region.contains_lonlat([1.0, 5.0, 10.9], [1.0, 1.0, 0.5]).tolist() == [True, False, True]
    assert region.area_km2 == pytest.approx(4.5 * 111.19**2, rel=0.01)
    assert (region.name, region.title, region.description) == ("a", "A", "")


def test_everything_lies_in_the_globe():
    region = region_from_document({"name": "globe", "polygons": [square]}, "globe.toml")
    assert region.contains_lonlat([180.0, -180.0, np.nan], [90.0, 0.0, 0.0]).tolist() == [True, True, False]


def test_every_problem_is_named():
    wrong = [
        [[0, 0], [1, 1]],
        [[0, 0], [200, 0], [0, 95]],
        [[0, 0], [1, 1], [1, 0], [0, 1]],
        "ring",
        [[0, np.nan], [1, 1], [2, 2]],
    ]
    with pytest.raises(InputError) as caught:
        region_from_document({"titel": "x", "description": 3, "polygons": wrong}, "mine.toml")
    expected = ["mine.toml", "'titel'", "'name'", "description must", "polygon 1 must", "polygon 2 spans"]
    expected += ["polygon 3 is no simple", "polygon 4 must", "polygon 5 has"]
    for words in expected:
        assert words in caught.value.message
    with pytest.raises(InputError, match="at least one ring"):
        region_from_document({"name": "a", "polygons": []}, "a.toml")


def test_vector_features_make_a_region_if_they_are_polygons():
    region = region_from_geometry("two", [shapely.box(0, 0, 1, 1), None, shapely.box(1, 0, 2, 1)], "two.geojson")
    assert region.geometry.area == pytest.approx(2.0)
    with pytest.raises(InputError, match="not LineString, Point"):
        region_from_geometry("x", [shapely.Point(0, 0), shapely.LineString([(0, 0), (1, 1)])], "x.geojson")
    with pytest.raises(InputError, match="no feature"):
        region_from_geometry("x", [], "x.geojson")
    with pytest.raises(InputError, match="are empty"):
        region_from_geometry("x", [None], "x.geojson")
    with pytest.raises(InputError, match="longitude 500"):
        region_from_geometry("x", [shapely.box(500, 0, 501, 1)], "x.geojson")
