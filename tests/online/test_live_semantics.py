"""What the evaluator believes about Earth Engine, one small question each: the same answers are asked of the embedded
service and, with an account, of the real one. A difference found live is a bug of the evaluator.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from m3etl.io.earthengine import open_session

project = os.environ.get("M3ETL_EE_PROJECT", "")
scene = "COPERNICUS/S2_SR_HARMONIZED"


@pytest.fixture(scope="module", params=["embedded", pytest.param("", id="live", marks=pytest.mark.online)])
def session(request):
    with open_session(url=request.param, project="" if request.param else project) as opened:
        yield opened


def at_a_point(api: Any, image: Any) -> Any:
    """The values of an image in one pixel of UTM zone 32N."""
    return image.reduceRegion(
        api.Reducer.first(), api.Geometry.Point([600005, 5199995], "EPSG:32632"), 10, "EPSG:32632"
    )


def square(api: Any, west: float, east: float) -> Any:
    """A rectangle one 10 m pixel high over columns [west, east) of a lattice at (600000, 5200000)."""
    corners = [600000 + 10 * west, 5199990, 600000 + 10 * east, 5200000]
    return api.Geometry.Rectangle(corners, "EPSG:32632", False)


def over(api: Any, image: Any, reducer: Any, west: float, east: float) -> Any:
    return image.reduceRegion(reducer, square(api, west, east), None, "EPSG:32632", [10, 0, 600000, 0, -10, 5200000])


def columns(api: Any) -> Any:
    """An image whose pixels hold their column on that lattice."""
    lattice = api.Projection("EPSG:32632", [10, 0, 600000, 0, -10, 5200000])
    return api.Image.pixelCoordinates(lattice).select("x").floor().toInt32().rename("v")


def coarse(api: Any, image: Any) -> Any:
    """An image pinned to pixels of 20 m with the same corner."""
    return image.reproject("EPSG:32632", [20, 0, 600000, 0, -20, 5200000])


def named(api: Any, *values: float) -> Any:
    return api.ImageCollection([api.Image(value).rename("v") for value in values])


# name: (question, the answer that the evaluator is built on)
BELIEFS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "casts truncate and clamp": (
        lambda api: at_a_point(api, api.Image([-1.7, 2.7, 300.2]).toUint8()).values(),
        [0, 2, 255],
    ),
    "division by zero": (lambda api: at_a_point(api, api.Image(5).divide(0).rename("v")).get("v"), 0),
    "y.atan2(x)": (lambda api: api.Number(1).atan2(0), pytest.approx(1.5707963)),
    "half is rounded up": (lambda api: api.List([api.Number(2.5).round(), api.Number(-2.5).round()]), [3, -2]),
    "median of an even number": (lambda api: at_a_point(api, named(api, 1, 2, 3, 10).median()).get("v"), 2.5),
    "mode of a tie": (lambda api: at_a_point(api, named(api, 3, 1, 3, 1).mode()).get("v"), 1),
    "constants are as small as they can be": (
        lambda api: api.Image(3).bandTypes().get("constant"),
        {"type": "PixelType", "precision": "int", "min": 3, "max": 3},
    ),
    "names of reductions": (
        lambda api: named(api, 1, 2).reduce(api.Reducer.minMax()).bandNames(),
        ["v_min", "v_max"],
    ),
    "names of stacked bands": (lambda api: named(api, 1, 2).toBands().bandNames(), ["0_v", "1_v"]),
    "names of added bands": (
        lambda api: api.Image(1).addBands(api.Image(2)).addBands(api.Image(3)).bandNames(),
        ["constant", "constant_1", "constant_2"],
    ),
    "composites have one degree": (lambda api: named(api, 1, 2).mean().projection().nominalScale(), 111319.49079327358),
    "shares of edge pixels weigh": (
        lambda api: over(api, columns(api), api.Reducer.mean(), 3, 4.25).get("v"),
        pytest.approx((3 + 0.25 * 4) / 1.25, rel=0.02),
    ),
    "unweighted takes centres": (lambda api: over(api, columns(api), api.Reducer.max(), 3, 4.25).get("v"), 3),
    "the sum of nothing": (
        lambda api: over(api, columns(api).updateMask(0), api.Reducer.sum(), 0, 3).get("v"),
        0,
    ),
    "the mean of nothing": (
        lambda api: over(api, columns(api).updateMask(0), api.Reducer.mean(), 0, 3).get("v", "none"),
        "none",
    ),
    "a pixel lies under its centre": (
        lambda api: over(api, coarse(api, columns(api)), api.Reducer.toList(), 0, 4).get("v"),
        [1, 1, 3, 3],
    ),
    "casts keep properties, arithmetic drops them": (
        lambda api: api.List(
            [api.Image(1).set("p", 7).toInt16().propertyNames().contains("p"),
             api.Image(1).set("p", 7).add(1).propertyNames().contains("p")]
        ),
        [True, False],
    ),
    "nothing found": (lambda api: api.ImageCollection(scene).filterDate("1990-01-01", "1990-01-02").first(), None),
    "points that are a property of a feature": (
        lambda api: api.List(api.Feature(None, {"points": [[9, 45], [10, 46]]}).get("points")).map(
            lambda point: api.Geometry.Point(api.List(point)).coordinates()
        ),
        [[9, 45], [10, 46]],
    ),
    "dictionaries keep what is null": (
        lambda api: api.Dictionary({"a": api.Image(1).get("nothing")}).combine({"b": 1}),
        {"a": None, "b": 1},
    ),
    "lists of images join": (
        lambda api: api.Image(
            api.ImageCollection([]).toList(1).cat(api.List([api.Image(7)])).get(0)
        ).bandNames(),
        ["constant"],
    ),
    "a year after a leap day": (
        lambda api: api.Date("2020-02-29").advance(1, "year").format("YYYY-MM-dd"),
        "2021-02-28",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BELIEFS)
def test_a_belief(session: Any, name: str) -> None:
    ask, expected = BELIEFS[name]
    assert session.compute_value(ask(session.api)) == expected


def test_no_scene_is_told_in_these_words(session: Any) -> None:
    api = session.api
    nothing = api.ImageCollection(scene).filterDate("1990-01-01", "1990-01-02")
    with pytest.raises(Exception, match=r"Parameter 'input' is required and may not be null"):
        session.compute_value(api.Image(nothing.first()).select("B2").bandNames())
    with pytest.raises(Exception, match=r"Band pattern 'B2' was applied to an Image with no bands"):
        session.compute_value(nothing.median().select("B2").bandNames())
