"""Bands, masks, types and arithmetic of images, with known values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.emulator.evaluate import pixel_types
from m3etl.emulator.model import PixelType
from tests.fakes.ee_in_process import ee
from tests.fakes.known_assets import INSIDE, known
from tests.unit.emulator.evaluating import Session, utm_grid


def kinds(image: Any) -> dict[str, Any]:
    return {band["id"]: band["data_type"] for band in image.getInfo()["bands"]}


def integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "PixelType", "precision": "int", "min": low, "max": high}


def test_arithmetic_of_known_pixels(session: Session) -> None:
    image = ee.Image("S2/i1")
    b2, b3 = image.select("B2"), image.select("B3")
    on = utm_grid(12, 3, 5, 4)
    v2, v3 = (known(1, band, np.arange(12, 17), np.arange(3, 7)[:, None]).astype(float) for band in (0, 1))
    cases = {
        "add": (b2.add(b3), v2 + v3),
        "subtract": (b2.subtract(b3), v2 - v3),
        "multiply": (b2.multiply(b3), v2 * v3),
        "divide": (b2.divide(b3), np.float32(v2 / v3)),
        "divide by zero": (b2.divide(0), 0 * v2),
        "mod": (b2.mod(7), v2 % 7),
        "pow": (b2.pow(2), v2**2),
        "min": (b2.min(1050), np.minimum(v2, 1050)),
        "max": (b2.max(1050), np.maximum(v2, 1050)),
        "atan2": (b2.atan2(b3), np.float32(np.arctan2(v2, v3))),
        "hypot": (b2.hypot(b3), np.float32(np.hypot(v2, v3))),
        "eq": (b2.eq(1032), v2 == 1032),
        "neq": (b2.neq(1032), v2 != 1032),
        "lt": (b2.lt(1040), v2 < 1040),
        "gte": (b2.gte(1040), v2 >= 1040),
        "and": (b2.gt(1040).And(b2.lt(1060)), (v2 > 1040) & (v2 < 1060)),
        "or": (b2.lt(1040).Or(b2.gt(1060)), (v2 < 1040) | (v2 > 1060)),
        "not": (b2.gt(1040).Not(), v2 <= 1040),
        "bitwiseAnd": (b2.bitwiseAnd(6), v2.astype(int) & 6),
        "bitwiseOr": (b2.bitwiseOr(1), v2.astype(int) | 1),
        "rightShift": (b2.rightShift(3), v2.astype(int) >> 3),
        "leftShift": (b2.leftShift(3), v2.astype(int) << 3),
        "sqrt": (b2.sqrt(), np.float32(np.sqrt(v2))),
        "log10": (b2.log10(), np.float32(np.log10(v2))),
        "exp": (b2.divide(1000).exp(), np.float32(np.exp(np.float32(v2 / 1000)))),
        "abs": (b2.subtract(2000).abs(), np.abs(v2 - 2000)),
        "round": (b2.divide(7).round(), np.floor(np.float32(v2 / 7) + 0.5)),
        "floor": (b2.divide(7).floor(), np.floor(np.float32(v2 / 7))),
        "ceil": (b2.divide(7).ceil(), np.ceil(np.float32(v2 / 7))),
        "signum": (b2.subtract(1045).signum(), np.sign(v2 - 1045)),
        "clamp": (b2.clamp(1035, 1050), np.clip(v2, 1035, 1050)),
        "unitScale": (b2.unitScale(1000, 1100), np.float32((v2 - 1000) / 100)),
        "polynomial": (b2.polynomial([1, 2, 0.5]), 1 + 2 * v2 + 0.5 * v2**2),
        "interpolate": (b2.interpolate([1000, 1100], [0, 10]), (v2 - 1000) / 10),
    }
    for name, (made, expected) in cases.items():
        values, valid = session.band(made, on)
        assert valid.all(), name
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_types_of_results(session: Session) -> None:
    b2 = ee.Image("S2/i1").select("B2")
    assert kinds(b2.add(b2)) == {"B2": integer(0, 131070)}
    assert kinds(b2.subtract(1)) == {"B2": integer(-1, 65534)}
    assert kinds(b2.multiply(-2)) == {"B2": integer(-131070, 0)}
    assert kinds(b2.eq(1)) == {"B2": integer(0, 1)}
    assert kinds(b2.divide(10000))["B2"]["precision"] == "float"
    assert kinds(b2.multiply(0.5))["B2"]["precision"] == "double"
    assert kinds(ee.Image(3)) == {"constant": integer(3, 3)}
    assert kinds(ee.Image(3.5))["constant"]["precision"] == "double"
    assert kinds(b2.toInt16()) == kinds(b2.short()) == {"B2": integer(-32768, 32767)}
    assert kinds(b2.toUint8()) == kinds(b2.byte()) == {"B2": integer(0, 255)}
    assert kinds(b2.float())["B2"] == kinds(b2.toFloat())["B2"] == {"type": "PixelType", "precision": "float"}
    assert kinds(b2.clamp(10, 20)) == {"B2": integer(10, 20)}
    assert ee.Image("S2/i1").bandTypes().getInfo()["SCL"] == integer(0, 255)
    raster = session.pixels(b2.add(b2).addBands(b2.eq(1)).addBands(b2.double()), utm_grid())
    assert [str(values.dtype) for values in raster.bands.values()] == ["uint32", "uint8", "float64"]


def test_casts_truncate_and_clamp(session: Session) -> None:
    image = ee.Image.constant([-1.7, 2.7, 300.2, 70000.0, -40000])
    expected = {
        "toUint8": [0, 2, 255, 255, 0],
        "toInt8": [-1, 2, 127, 127, -128],
        "toInt16": [-1, 2, 300, 32767, -32768],
        "toUint16": [0, 2, 300, 65535, 0],
        "toInt32": [-1, 2, 300, 70000, -40000],
    }
    for name, numbers in expected.items():
        raster = session.pixels(getattr(image, name)(), utm_grid(width=1, height=1))
        assert [int(values[0, 0]) for values in raster.bands.values()] == numbers, name


@given(
    st.integers(-300, 300), st.integers(-300, 300), st.integers(-300, 300), st.integers(-300, 300),
    st.sampled_from(["add", "subtract", "multiply", "min", "max", "mod"]),
)  # fmt: skip
def test_integer_results_stay_in_their_declared_range(a: int, b: int, c: int, d: int, operation: str) -> None:
    from m3etl.emulator.evaluate import arithmetic

    low, high = min(a, b), max(a, b)
    first, second = min(c, d), max(c, d)
    left = PixelType(precision="int", minimum=low, maximum=high)
    right = PixelType(precision="int", minimum=first, maximum=second)
    binary = arithmetic.BINARY[operation]
    x, y = np.meshgrid(np.arange(low, high + 1), np.arange(first, second + 1))
    values = binary.function(x, y)
    ends = pixel_types.limits(binary.result(left, right))
    assert ends[0] <= values.min()
    assert values.max() <= ends[1]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.sampled_from(["uint8", "int8", "uint16", "int16"]))
def test_converting_never_wraps(numbers: list[float], dtype: str) -> None:
    kind = PixelType.of(dtype)
    converted = pixel_types.convert(np.array(numbers), kind)
    low, high = pixel_types.limits(kind)
    assert converted.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(converted, np.clip(np.trunc(numbers), low, high).astype(dtype))


def test_bands_of_two_images_are_matched(session: Session) -> None:
    image = ee.Image("S2/i1")
    assert image.select(["B2", "B3"]).add(1).bandNames().getInfo() == ["B2", "B3"]
    assert ee.Image(1).add(image.select(["B2", "B3"])).bandNames().getInfo() == ["B2", "B3"]
    by_name = image.select(["B2", "B3"]).subtract(image.select(["B3", "B2"]))
    assert np.all(session.pixels(by_name, utm_grid()).bands["B2"] == 0)
    in_order = image.select(["B2", "B3"]).subtract(image.select(["B3", "B2"], ["x", "y"]))
    assert np.all(session.pixels(in_order, utm_grid()).bands["B2"] == -100)
    with pytest.raises(ee.EEException, match="same number of bands"):
        image.select(["B2", "B3"]).add(ee.Image([1, 2, 3])).bandNames().getInfo()


def test_select_by_name_pattern_and_position(session: Session) -> None:
    image = ee.Image("S2/i1")
    assert image.select("B.*").bandNames().getInfo() == ["B2", "B3", "B11"]
    assert image.select([-1, 0]).bandNames().getInfo() == ["SCL", "B2"]
    assert image.select(["B3", "B2"], ["x", "y"]).bandNames().getInfo() == ["x", "y"]
    assert image.select(["B2", "B2"]).bandNames().getInfo() == ["B2", "B2_1"]
    with pytest.raises(ee.EEException, match=r"Band pattern 'B9' did not match any bands. Available bands: \[B2, B3"):
        image.select("B9").bandNames().getInfo()
    with pytest.raises(ee.EEException, match="numbers must be equal"):
        image.select(["B2"], ["x", "y"]).bandNames().getInfo()
    with pytest.raises(ee.EEException, match="must match the number of bands"):
        image.rename(["x"]).bandNames().getInfo()
    assert image.slice(1, 3).bandNames().getInfo() == ["B3", "B11"]


def test_added_bands_get_suffixes(session: Session) -> None:
    image = ee.Image("S2/i1").select(["B2"])
    assert image.addBands(image).addBands(image).bandNames().getInfo() == ["B2", "B2_1", "B2_2"]
    assert image.addBands(image.add(1), None, True).bandNames().getInfo() == ["B2"]
    assert ee.Image([1, 2]).bandNames().getInfo() == ["constant", "constant_1"]
    assert ee.Image.cat([1, 2, 3]).bandNames().getInfo() == ["constant", "constant_1", "constant_2"]
    chosen = image.addBands(ee.Image("S2/i2"), ["SCL"])
    assert chosen.bandNames().getInfo() == ["B2", "SCL"]
    assert chosen.get("CLOUD").getInfo() == 30


def test_masks_combine_by_and(session: Session) -> None:
    half = ee.Image("S2/i4").select("B2")
    full = ee.Image("S2/i1").select("B2")
    on = utm_grid(46, 0, 8, 1)
    inside = [False] * 4 + [True] * 4
    assert session.band(half.add(full), on)[1][0].tolist() == inside
    assert session.band(full.add(half), on)[1][0].tolist() == inside
    assert session.band(full.updateMask(half.mask()), on)[1][0].tolist() == inside
    values, valid = session.band(half.mask(), on)
    assert valid.all()
    assert values[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    odd = full.mod(2)
    assert session.band(full.updateMask(odd), on)[1][0].tolist() == [False, True] * 4
    assert session.band(odd.selfMask(), on)[1][0].tolist() == [False, True] * 4


def test_setting_a_mask_on_masked_pixels_gives_zero(session: Session) -> None:
    values, valid = session.band(ee.Image("S2/i4").select("B2").mask(ee.Image(1)), utm_grid(48, 0, 4, 1))
    assert valid.all()
    assert values[0].tolist() == [0, 0, 4000, 4001]


def test_unmask_fills_inside_the_footprint_or_everywhere(session: Session) -> None:
    image = ee.Image("S2/i4").select("B2")
    on = utm_grid(-4, 100, 60, 1)
    kept = session.band(image.unmask(7), on)
    assert kept[1][0].tolist() == [False] * 4 + [True] * 56
    assert kept[0][0, 4:54].tolist() == [7] * 50
    assert kept[0][0, 54] == known(4, 0, 50, 100)
    full = session.band(image.unmask(7, False), on)
    assert full[1].all()
    assert full[0][0, :54].tolist() == [7] * 54
    assert kinds(image.unmask(-1))["B2"] == integer(-1, 65535)


def test_unmask_with_an_image_takes_its_mask(session: Session) -> None:
    filled = ee.Image("S2/i4").select("B2").unmask(ee.Image("S2/i1").select("B2"))
    values, valid = session.band(filled, utm_grid(48, 5, 4, 1))
    assert valid.all()
    assert values[0].tolist() == [1058, 1059, 4050, 4051]


def test_where_replaces_only_valid_pixels(session: Session) -> None:
    image = ee.Image("S2/i1").select("B2")
    values, _ = session.band(image.where(image.gt(1004), 9), utm_grid(0, 0, 10, 1))
    assert values[0].tolist() == [1000, 1001, 1002, 1003, 1004, 9, 9, 9, 9, 9]
    masked_test = ee.Image("S2/i4").select("B2").gt(0)
    values, valid = session.band(image.where(masked_test, -5), utm_grid(48, 0, 4, 1))
    assert values[0].tolist() == [1008, 1009, -5, -5]
    assert valid.all()
    values, valid = session.band(ee.Image("S2/i4").select("B2").where(ee.Image(1), 3), utm_grid(48, 0, 4, 1))
    assert valid[0].tolist() == [False, False, True, True]


def test_remap_looks_up_or_masks(session: Session) -> None:
    image = ee.Image("S2/i1").select("B2")
    on = utm_grid(0, 0, 5, 1)
    values, valid = session.band(image.remap([1001, 1003], [10, 30]), on)
    assert values[0][valid[0]].tolist() == [10, 30]
    assert valid[0].tolist() == [False, True, False, True, False]
    values, valid = session.band(image.remap([1001, 1003], [10, 30], 99), on)
    assert values[0].tolist() == [99, 10, 99, 30, 99]
    assert ee.Image("S2/i1").remap([1], [2], None, "B3").bandNames().getInfo() == ["remapped"]


def test_clip_masks_outside_and_sets_the_extent(session: Session) -> None:
    box = ee.Geometry.Rectangle([600030, 5199950, 600070, 5199980], "EPSG:32632", False)
    clipped = ee.Image("S2/i1").select("B2").clip(box)
    _, valid = session.band(clipped, utm_grid(0, 0, 10, 8))
    expected = np.zeros((8, 10), bool)
    expected[2:5, 3:7] = True
    np.testing.assert_array_equal(valid, expected)
    raster = session.pixels(clipped)
    assert raster.grid.projection.transform == (10, 0, 600030, 0, -10, 5199980)
    assert (raster.grid.width, raster.grid.height) == (4, 3)
    described = clipped.getInfo()["bands"][0]
    assert (described["dimensions"], described["origin"]) == ([4, 3], [3, 2])
    everywhere = ee.Image(5).clip(ee.Feature(box))
    np.testing.assert_array_equal(session.band(everywhere, utm_grid(0, 0, 10, 8))[1], expected)
    other = ee.Image(5).clipToCollection(ee.FeatureCollection([ee.Feature(box)]))
    np.testing.assert_array_equal(session.band(other, utm_grid(0, 0, 10, 8))[1], expected)


def test_normalized_difference(session: Session) -> None:
    values, _ = session.band(ee.Image("S2/i1").normalizedDifference(["B3", "B2"]), utm_grid(0, 0, 1, 1))
    assert values.dtype == np.float32
    assert values[0, 0] == pytest.approx(100 / 2100)
    negative = ee.Image([-1, 5]).normalizedDifference()
    assert not session.band(negative, utm_grid(0, 0, 1, 1))[1].any()
    assert ee.Image("S2/i1").normalizedDifference(["B3", "B2"]).bandNames().getInfo() == ["nd"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(B3 - B2) / (B3 + B2)", 100 / 2100),
        ("b('B3') - b(0)", 100),
        ("i.B3 * 2 ** 3", 1100 * 8),
        ("-B2 + 3", -997),
        ("i['B3'] % 7", 1100 % 7),
        ("B2 > 999 && B3 < 2000 ? 5 : 6", 5),
        ("B2 < 999 || !(B3 > 5) ? 5 : 6", 6),
        ("min(B2, B3, 7) + max(1, 2)", 9),
        ("sqrt(B2 * B2) + abs(0 - 2)", 1002),
        ("2.5e2 * PI", 250 * np.pi),
        ("B2 & 8", 1000 & 8),
        ("10 - 4 - 3", 3),
    ],
)
def test_expressions(session: Session, text: str, expected: float) -> None:
    image = ee.Image("S2/i1")
    made = image.expression(text, {"B2": image.select("B2"), "B3": image.select("B3"), "i": image})
    values, valid = session.band(made, utm_grid(0, 0, 1, 1))
    assert valid.all()
    assert values[0, 0] == pytest.approx(expected, rel=1e-6)


def test_broken_expressions_are_refused(session: Session) -> None:
    image = ee.Image("S2/i1")
    for text, message in [
        ("B2 +", "unexpected end"),
        ("foo(1)", "unknown function"),
        ("B2 $ 3", "Unexpected character"),
    ]:
        with pytest.raises(ee.EEException, match=message):
            image.expression(text, {"B2": image.select("B2")}).bandNames().getInfo()


def test_blend_and_mosaic_put_the_last_on_top(session: Session) -> None:
    on = utm_grid(48, 0, 4, 1)
    blended = ee.Image("S2/i1").select("B2").blend(ee.Image("S2/i4").select("B2"))
    assert session.band(blended, on)[0][0].tolist() == [1008, 1009, 4000, 4001]
    mosaic = ee.ImageCollection("S2").select("B2").mosaic()
    assert session.band(mosaic, on)[0][0].tolist() == [3008, 3009, 4000, 4001]


def test_metadata_of_images(session: Session) -> None:
    image = ee.Image("S2/i2")
    assert image.id().getInfo() == "i2"
    assert image.get("CLOUD").getInfo() == 20
    assert image.get("missing").getInfo() is None
    assert image.date().format("YYYY-MM-dd").getInfo() == "2020-06-11"
    assert image.set("a", 1, "b", "x").get("b").getInfo() == "x"
    assert image.set({"a": 1, "b": 2}).toDictionary(["a", "CLOUD"]).getInfo() == {"a": 1, "CLOUD": 20}
    assert "CLOUD" in image.propertyNames().getInfo()
    assert image.toDictionary().getInfo() == {"CLOUD": 20, "ORBIT": "DESC"}
    assert image.multiply(2).get("CLOUD").getInfo() is None
    assert image.toInt16().get("CLOUD").getInfo() == 20
    assert image.multiply(2).copyProperties(image, ["CLOUD"]).get("CLOUD").getInfo() == 20
    values, _ = session.band(image.metadata("CLOUD"), utm_grid(width=1, height=1))
    assert (values[0, 0], values.dtype) == (20, np.float64)
    with pytest.raises(ee.EEException, match="system:time_start"):
        ee.Image(1).date().getInfo()


def test_get_info_describes_an_image(session: Session) -> None:
    described = ee.Image("S2/i1").getInfo()
    assert described["type"] == "Image"
    assert described["id"] == "S2/i1"
    assert described["bands"][2] == {
        "id": "B11",
        "data_type": integer(0, 65535),
        "dimensions": [100, 100],
        "crs": "EPSG:32632",
        "crs_transform": [20, 0, 600000, 0, -20, 5200000],
    }
    assert described["properties"]["system:footprint"]["type"] == "LinearRing"
    assert described["properties"]["system:time_start"] == 1591401600000
    constant = ee.Image(1).getInfo()
    assert constant == {
        "type": "Image",
        "bands": [
            {
                "id": "constant",
                "data_type": integer(1, 1),
                "crs": "EPSG:4326",
                "crs_transform": [1, 0, 0, 0, 1, 0],
            }
        ],
    }


def test_footprints_follow_the_operations(session: Session) -> None:
    image = ee.Image("S2/i1")
    place = ee.Geometry.Point(INSIDE)
    assert image.geometry().contains(place, 1).getInfo()
    assert image.add(1).geometry().contains(place, 1).getInfo()
    assert not ee.Image("DEM").geometry().contains(ee.Geometry.Point([12, 47]), 1).getInfo()
    assert ee.Image(1).geometry().isUnbounded().getInfo()
    assert image.unmask(0, False).geometry().isUnbounded().getInfo()
    assert image.geometry().bounds().coordinates().length().getInfo() == 1


def test_visualisation_scales_to_bytes(session: Session) -> None:
    image = ee.Image("S2/i1")
    raster = session.pixels(
        image.select(["B2", "B3", "B11"]).visualize(min=1000, max=[1100, 1200, 1300]), utm_grid(5, 5, 1, 1)
    )
    assert list(raster.bands) == ["vis-red", "vis-green", "vis-blue"]
    assert [int(values[0, 0]) for values in raster.bands.values()] == [
        round(0.55 * 255),
        round(0.775 * 255),
        round(222 / 300 * 255),
    ]
    options = {"ranges": [{"min": 1000, "max": 1100}], "paletteColors": ["000000", "ff0000"]}
    raster = session.pixels(image, utm_grid(0, 0, 10, 10), band_ids=["B2"], visualization=options)
    assert int(raster.bands["vis-red"][5, 5]) == round(0.55 * 255)
    assert not raster.bands["vis-green"].any()


def test_a_missing_image_is_the_services_error(session: Session) -> None:
    with pytest.raises(ee.EEException) as caught:
        ee.Image("S2/none").select("B2").getInfo()
    assert str(caught.value) == (
        "Image.load: Image asset 'S2/none' not found (does not exist or caller does not have access)."
    )
