"""Dates, numbers, strings, lists, dictionaries, features and geometries, through the client's own classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import shapely

from tests.fakes.ee_in_process import ee
from tests.fakes.known_assets import INSIDE
from tests.unit.emulator.evaluating import Session

pytestmark = pytest.mark.usefixtures("session")

DAY = 86_400_000


def test_dates() -> None:
    date = ee.Date("2020-02-29T12:30:15")
    assert date.getInfo() == {"type": "Date", "value": 1582979415000}
    assert ee.Date(0).format().getInfo() == "1970-01-01T00:00:00"
    assert ee.Date("2020-001").format("YYYY-MM-dd").getInfo() == "2020-01-01"
    assert ee.Date.fromYMD(2021, 3, 4).millis().getInfo() == 1614816000000
    assert date.advance(1, "year").format("YYYY-MM-dd").getInfo() == "2021-02-28"
    assert date.advance(-1, "month").format("YYYY-MM-dd HH").getInfo() == "2020-01-29 12"
    assert date.advance(1.5, "day").format("YYYY-MM-dd HH:mm").getInfo() == "2020-03-02 00:30"
    assert date.advance(2, "weeks").format("MMM d, yy D").getInfo() == "Mar 14, 20 74"
    assert date.difference(ee.Date("2020-02-28"), "day").getInfo() == pytest.approx(1.521006944)
    assert ee.Date("2021-01-01").difference(ee.Date("2020-01-01"), "year").getInfo() == pytest.approx(366 / 365.2425)
    assert [date.get(unit).getInfo() for unit in ("year", "month", "day", "hour", "minute", "second", "week")] == [
        2020, 2, 29, 12, 30, 15, 9,
    ]  # fmt: skip
    assert date.getRelative("day", "year").getInfo() == 59
    assert date.getRelative("month", "year").getInfo() == 1
    assert date.getFraction("day").getInfo() == pytest.approx(0.52100694)
    assert date.getRange("month").end().format("YYYY-MM-dd").getInfo() == "2020-03-01"
    assert date.update(month=5, day=1).format("YYYY-MM-dd").getInfo() == "2020-05-01"
    assert ee.Date.parse("dd/MM/yyyy", "03/04/2020").format("YYYY-MM-dd").getInfo() == "2020-04-03"
    assert ee.Date("2020-07-01", "America/New_York").format("HH").getInfo() == "04"
    assert ee.Date.unitRatio("day", "minute").getInfo() == 1440
    with pytest.raises(ee.EEException, match="Bad date/time 'yesterday'"):
        ee.Date("yesterday").millis().getInfo()


def test_date_ranges() -> None:
    june = ee.DateRange("2020-06-01", "2020-07-01")
    assert june.getInfo() == {"type": "DateRange", "dates": [1590969600000, 1593561600000]}
    assert june.contains(ee.Date("2020-06-30T23:59:59")).getInfo() is True
    assert june.contains(ee.Date("2020-07-01")).getInfo() is False
    assert june.intersects(ee.DateRange("2020-06-30", "2020-08-01")).getInfo() is True
    assert june.intersection(ee.DateRange("2020-06-30", "2020-08-01")).start().get("day").getInfo() == 30
    assert june.union(ee.DateRange("2020-08-01", "2020-09-01")).end().get("month").getInfo() == 9
    assert june.isEmpty().getInfo() is False
    assert ee.DateRange(5).end().millis().getInfo() == 6


def test_numbers() -> None:
    cases: list[tuple[Any, Any]] = [
        (ee.Number(7).add(3), 10),
        (ee.Number(7).divide(2), 3.5),
        (ee.Number(6).divide(2), 3),
        (ee.Number(7).mod(4), 3),
        (ee.Number(2).pow(10), 1024),
        (ee.Number(-3.7).floor(), -4),
        (ee.Number(2.5).round(), 3),
        (ee.Number(-2.5).round(), -2),
        (ee.Number(3.99).toInt(), 3),
        (ee.Number(300).toUint8(), 255),
        (ee.Number(5).gt(4), 1),
        (ee.Number(5).And(0), 0),
        (ee.Number(5).max(9).min(7), 7),
        (ee.Number(1).atan2(0), math.pi / 2),
        (ee.Number(12).bitwiseAnd(10), 8),
        (ee.Number(1).leftShift(4), 16),
        (ee.Number(5).clamp(0, 3), 3),
        (ee.Number(5).unitScale(0, 10), 0.5),
        (ee.Number.parse("42"), 42),
        (ee.Number.parse("ff", 16), 255),
        (ee.Number(3.14159).format("%.2f"), "3.14"),
        (ee.Number(7).format("%05d"), "00007"),
        (ee.Number(7.0).format(), "7"),
        (ee.Number(2).sqrt(), math.sqrt(2)),
        (ee.Number(-4).abs(), 4),
    ]
    for made, expected in cases:
        found = made.getInfo()
        assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_strings() -> None:
    text = ee.String("S2A_MSIL2A_20200629")
    assert text.slice(0, 3).cat("-").cat(text.slice(-4)).getInfo() == "S2A-0629"
    assert text.split("_").getInfo() == ["S2A", "MSIL2A", "20200629"]
    assert text.replace("\\d+", "#", "g").getInfo() == "S#A_MSIL#A_#"
    assert text.replace("(S2)(A)", "$2$1").getInfo() == "AS2_MSIL2A_20200629"
    assert text.match("(\\d{4})(\\d{2})").getInfo() == ["202006", "2020", "06"]
    assert text.match("[A-Z]+", "g").getInfo() == ["S", "A", "MSIL", "A"]
    assert text.index("MSI").getInfo() == 4
    assert text.length().getInfo() == 19
    assert text.toLowerCase().getInfo() == "s2a_msil2a_20200629"
    assert ee.String(" a ").trim().getInfo() == "a"
    assert ee.String(ee.Number(5)).getInfo() == "5"
    assert ee.String.encodeJSON({"a": [1, 2]}).getInfo() == '{"a":[1,2]}'
    assert ee.String('{"a": [1, 2]}').decodeJSON().getInfo() == {"a": [1, 2]}
    assert ee.String("a").compareTo("b").getInfo() == -1


def test_lists() -> None:
    numbers = ee.List([5, 3, 9, 3])
    cases: list[tuple[Any, Any]] = [
        (numbers.get(-1), 3),
        (numbers.size(), 4),
        (numbers.sort(), [3, 3, 5, 9]),
        (numbers.sort([4, 3, 2, 1]), [3, 9, 3, 5]),
        (numbers.reverse(), [3, 9, 3, 5]),
        (numbers.slice(1, -1), [3, 9]),
        (numbers.slice(0, 4, 2), [5, 9]),
        (numbers.distinct(), [5, 3, 9]),
        (numbers.indexOf(9), 2),
        (numbers.indexOf(7), -1),
        (numbers.contains(9), True),
        (numbers.containsAll([9, 5]), True),
        (numbers.frequency(3), 2),
        (numbers.cat([1]), [5, 3, 9, 3, 1]),
        (numbers.add(1), [5, 3, 9, 3, 1]),
        (numbers.remove(3), [5, 9, 3]),
        (numbers.removeAll([3]), [5, 9]),
        (numbers.replaceAll(3, 0), [5, 0, 9, 0]),
        (numbers.insert(1, "x"), [5, "x", 3, 9, 3]),
        (numbers.set(0, 1), [1, 3, 9, 3]),
        (numbers.splice(1, 2, [7]), [5, 7, 3]),
        (numbers.swap(0, 2), [9, 3, 5, 3]),
        (numbers.rotate(1), [3, 9, 3, 5]),
        (numbers.zip([1, 2]), [[5, 1], [3, 2]]),
        (ee.List([[1, 2], [3, 4]]).unzip(), [[1, 3], [2, 4]]),
        (ee.List([1, [2, [3]]]).flatten(), [1, 2, 3]),
        (ee.List.sequence(1, 2, 0.5), [1, 1.5, 2]),
        (ee.List.sequence(0, 1, None, 3), [0, 0.5, 1]),
        (ee.List.repeat("a", 2), ["a", "a"]),
        (numbers.reduce(ee.Reducer.mean()), 5),
        (numbers.reduce(ee.Reducer.minMax()), {"min": 3, "max": 9}),
        (numbers.reduce(ee.Reducer.mode()), 3),
        (numbers.reduce(ee.Reducer.toList()), [5, 3, 9, 3]),
        (ee.List([[1, 2], [2, 4]]).reduce(ee.Reducer.linearFit()), {"scale": 2, "offset": 0}),
        (numbers.filter(ee.Filter.gt("item", 4)), [5, 9]),
        (numbers.join("-"), "5-3-9-3"),
        (ee.List(["b", "a"]).sort(), ["a", "b"]),
        (ee.List(["b", "a"]).reduce(ee.Reducer.first()), "b"),
        (ee.List(["b", None]).reduce(ee.Reducer.count()), 1),
        (numbers.map(lambda x: ee.Algorithms.If(ee.Number(x).gt(4), x), True), [5, 9]),
    ]
    for index, (made, expected) in enumerate(cases):
        assert made.getInfo() == expected, index
    with pytest.raises(ee.EEException, match="List index must be between 0 and 3"):
        numbers.get(4).getInfo()


def test_dictionaries() -> None:
    table = ee.Dictionary({"b": 2, "a": 1})
    cases: list[tuple[Any, Any]] = [
        (table.get("a"), 1),
        (table.get("z", 9), 9),
        (table.set("c", 3), {"a": 1, "b": 2, "c": 3}),
        (table.combine({"a": 5}), {"a": 5, "b": 2}),
        (table.combine({"a": 5}, False), {"a": 1, "b": 2}),
        (table.keys(), ["a", "b"]),
        (table.values(), [1, 2]),
        (table.values(["b"]), [2]),
        (table.map(lambda key, value: ee.String(key).cat(ee.String(value))), {"a": "a1", "b": "b2"}),
        (table.contains("a"), True),
        (table.size(), 2),
        (table.select(["a"]), {"a": 1}),
        (table.remove(["a"]), {"b": 2}),
        (table.rename(["a"], ["x"]), {"b": 2, "x": 1}),
        (ee.Dictionary.fromLists(["x", "y"], [1, 2]), {"x": 1, "y": 2}),
        (ee.Dictionary(["x", 1]), {"x": 1}),
        (table.toImage().bandNames(), ["a", "b"]),
    ]
    for index, (made, expected) in enumerate(cases):
        assert made.getInfo() == expected, index
    with pytest.raises(ee.EEException, match="does not contain key: 'z'"):
        table.get("z").getInfo()


def test_features() -> None:
    feature = ee.Feature(ee.Geometry.Point([10, 47]), {"a": 1, "b": "x"})
    assert feature.getInfo() == {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [10, 47]},
        "properties": {"a": 1, "b": "x"},
    }
    assert feature.select(["a"], ["z"]).getInfo()["properties"] == {"z": 1}
    assert feature.set("c", 3).get("c").getInfo() == 3
    assert feature.geometry().coordinates().getInfo() == [10, 47]
    assert feature.buffer(100).area(1).getInfo() == pytest.approx(math.pi * 100**2, rel=0.01)
    assert feature.buffer(650).bounds().get("a").getInfo() == 1
    assert feature.toDictionary().getInfo() == {"a": 1, "b": "x"}
    assert feature.intersects(ee.Feature(ee.Geometry.Rectangle([9, 46, 11, 48]))).getInfo() is True
    assert ee.Feature(None, {"a": 1}).getInfo()["geometry"] is None
    assert feature.setGeometry(ee.Geometry.Point([1, 2])).geometry().coordinates().getInfo() == [1, 2]


def test_geometries() -> None:
    rectangle = ee.Geometry.Rectangle([10, 46, 11, 47])
    assert rectangle.coordinates().getInfo() == [[[10, 47], [10, 46], [11, 46], [11, 47], [10, 47]]]
    assert rectangle.centroid(1).coordinates().getInfo() == pytest.approx([10.5, 46.5], abs=0.01)
    assert rectangle.contains(ee.Geometry.Point([10.5, 46.5]), 1).getInfo() is True
    assert rectangle.type().getInfo() == "Polygon"
    assert ee.Geometry.Point([10, 46]).distance(ee.Geometry.Point([10, 47])).getInfo() == pytest.approx(
        111160, rel=1e-3
    )
    assert ee.Geometry.LineString([[10, 46], [10, 47]]).length(1).getInfo() == pytest.approx(111160, rel=1e-3)
    assert rectangle.perimeter(1).getInfo() == pytest.approx(2 * 111160 + 77466 + 76043, rel=2e-3)
    half = rectangle.intersection(ee.Geometry.Rectangle([10.5, 46, 12, 47]), 1)
    assert half.bounds(1).coordinates().getInfo() == [[[11, 46], [11, 47], [10.5, 47], [10.5, 46], [11, 46]]]
    assert rectangle.union(ee.Geometry.Rectangle([11, 46, 12, 47]), 1).area(1).getInfo() == pytest.approx(
        2 * rectangle.area(1).getInfo(), rel=1e-4
    )
    assert rectangle.difference(rectangle, 1).area(1).getInfo() == 0
    assert ee.Geometry.MultiPoint([[0, 0], [1, 1]]).geometries().size().getInfo() == 2
    many = ee.Geometry.Point([10, 46]).buffer(1000)
    corners = [len(shape.coordinates().get(0).getInfo()) for shape in (many, many.simplify(100))]
    assert corners[1] < corners[0] / 2
    polygon = ee.Geometry.Polygon([[0, 0], [1, 0], [1, 1]])
    assert shapely.geometry.shape(polygon.getInfo()).area == pytest.approx(0.5)
    assert ee.Geometry.BBox(-10, -5, 10, 5).area(1).getInfo() > 0


def test_geometries_in_other_projections() -> None:
    square = ee.Geometry.Rectangle([600000, 5199000, 601000, 5200000], "EPSG:32632", False)
    assert square.area(1).getInfo() == pytest.approx(1e6, rel=2e-3)
    assert square.getInfo()["crs"] == {"type": "name", "properties": {"name": "EPSG:32632"}}
    back = square.transform("EPSG:4326", 1)
    assert shapely.geometry.shape(back.getInfo()).centroid.coords[0] == pytest.approx((10.3204, 46.9414), abs=1e-3)
    utm = ee.Geometry.Point(INSIDE).transform("EPSG:32632", 1)
    assert utm.coordinates().getInfo() == pytest.approx([601000, 5199000], abs=5)
    assert utm.projection().crs().getInfo() == "EPSG:32632"
    grown = ee.Geometry.Point([600500, 5199500], "EPSG:32632").buffer(100, 1, "EPSG:32632").bounds(1, "EPSG:32632")
    xs, ys = zip(*grown.coordinates().getInfo()[0], strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (600400, 600600, 5199400, 5199600)
    cells = square.coveringGrid("EPSG:32632", 500)
    assert cells.size().getInfo() == 4


def test_mixed_objects() -> None:
    assert ee.List([ee.Image("S2/i1").get("CLOUD"), ee.Date(0), None]).getInfo() == [
        30,
        {"type": "Date", "value": 0},
        None,
    ]
    assert ee.Algorithms.ObjectType(ee.Image("S2/i1")).getInfo() == "Image"
    assert ee.Algorithms.ObjectType(ee.ImageCollection("S2")).getInfo() == "ImageCollection"
    assert ee.Algorithms.IsEqual([1, [2]], [1, [2]]).getInfo() is True
    assert ee.Array([[1, 2], [3, 4]]).toList().getInfo() == [[1, 2], [3, 4]]
    assert ee.Array([[1, 2], [3, 4]]).get([1, 0]).getInfo() == 3


def test_planning_in_one_value(session: Session) -> None:
    """Candidates of several chips in one request, as a planner asks for them."""
    chips = ee.FeatureCollection(
        [ee.Feature(ee.Geometry.Point([10.32, 46.93]).buffer(300), {"chip": str(number)}) for number in range(3)]
    )

    def candidates(chip: Any) -> Any:
        region = ee.Feature(chip).geometry()
        found = ee.ImageCollection("S2").filterDate("2020-06-01", "2020-07-01").filterBounds(region).limit(8, "CLOUD")

        def scored(image: Any) -> Any:
            clear = ee.Image(image).select("SCL").lt(60).reduceRegion(ee.Reducer.mean(), region, 60)
            return [ee.Image(image).id(), ee.Image(image).get("system:time_start"), clear.get("SCL")]

        return ee.Feature(None, {"chip": chip.get("chip"), "found": found.toList(8).map(scored)})

    rows = chips.map(candidates).aggregate_array("found").getInfo()
    assert [[image[0] for image in row] for row in rows] == [["i4", "i3", "i2", "i1"]] * 3
    assert all(image[2] is None or 0 <= image[2] <= 1 for row in rows for image in row)
