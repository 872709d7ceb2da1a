"""Pixel requests and their encodings: grids, limits, wrapped graphs, and arrays that survive every format."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import rasterio
from fakes.engine import load
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from m3etl.emulator.encode import common_dtype, encode_geotiff, encode_npy, encode_picture, missing_value, resolve_crs
from m3etl.emulator.model import Grid, Projection, Raster, ServiceError
from m3etl.emulator.pixels import (
    PixelRequest,
    call,
    check_limits,
    parse_grid,
    parse_request,
)

dtype_names = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def grid_of(width: int, height: int) -> Grid:
    projection = Projection(crs="EPSG:32632", transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))
    return Grid(projection=projection, width=width, height=height)


@st.composite
def rasters(draw: st.DrawFn) -> Raster:
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    kinds = draw(st.lists(st.sampled_from(dtype_names), min_size=1, max_size=4))
    shape = (height, width)
    bands: dict[str, Any] = {}
    valid = {}
    for index, kind in enumerate(kinds):
        elements = {"allow_nan": False, "allow_infinity": False} if kind.startswith("float") else {}
        bands[f"b{index}"] = draw(arrays.arrays(kind, shape, elements=arrays.from_dtype(np.dtype(kind), **elements)))
        valid[f"b{index}"] = draw(arrays.arrays(bool, shape))
    return Raster(grid=grid_of(width, height), bands=bands, valid=valid)


@settings(max_examples=40)
@given(rasters())
def test_npy_holds_every_band_as_it_is(raster: Raster) -> None:
    table = np.load(io.BytesIO(encode_npy(raster)), allow_pickle=False)
    assert table.dtype.names == tuple(raster.bands)
    for band, values in raster.bands.items():
        assert table[band].dtype == values.dtype
        np.testing.assert_array_equal(table[band], np.where(raster.valid[band], values, 0))


@settings(max_examples=30)
@given(rasters())
def test_geotiff_holds_every_value_in_one_type(raster: Raster) -> None:
    with rasterio.MemoryFile(encode_geotiff(raster)) as memory, memory.open() as source:
        dtype = np.dtype(source.dtypes[0])
        assert source.descriptions == tuple(raster.bands)
        assert source.nodata == missing_value(dtype)
        stored = source.read()
    for index, (band, values) in enumerate(raster.bands.items()):
        seen = raster.valid[band]
        np.testing.assert_array_equal(stored[index][seen], values[seen].astype(dtype))
        assert (stored[index][~seen] == missing_value(dtype)).all()


@pytest.mark.parametrize(
    ("kinds", "common"),
    [
        (["uint8", "uint16"], "uint16"),
        (["uint16", "int16"], "int32"),
        (["uint8", "float32"], "float32"),
        (["int32", "float32"], "float64"),
        (["uint32", "int32"], "float64"),
    ],
)
def test_promotion(kinds: list[str], common: str) -> None:
    assert common_dtype(np.dtype(kind) for kind in kinds) == np.dtype(common)


def test_pictures_need_one_or_three_bands() -> None:
    plane = np.full((2, 2), 300.0, dtype=np.float32)
    plane[0, 0] = np.nan
    seen = np.ones((2, 2), dtype=bool)
    raster = Raster(grid=grid_of(2, 2), bands={"a": plane}, valid={"a": seen})
    data, media_type = encode_picture(raster, "PNG")
    assert (media_type, data[:4]) == ("image/png", b"\x89PNG")
    with pytest.raises(ServiceError, match="PNG and JPEG need 1 or 3 bands, found 2"):
        encode_picture(Raster(grid=grid_of(2, 2), bands={"a": plane, "b": plane}, valid={"a": seen, "b": seen}), "PNG")


def test_the_sinusoidal_grid_of_modis_is_known() -> None:
    assert resolve_crs("SR-ORG:6974").to_dict()["proj"] == "sinu"


def test_a_graph_is_spliced_into_a_call() -> None:
    inner = {
        "result": "1",
        "values": {
            "0": {"constantValue": {"valueReference": "kept as it is"}},
            "1": {
                "functionInvocationValue": {
                    "functionReference": "2",
                    "arguments": {
                        "body": {"valueReference": "0"},
                        "list": {"arrayValue": {"values": [{"valueReference": "0"}]}},
                    },
                }
            },
            "2": {"functionDefinitionValue": {"argumentNames": ["a"], "body": "0"}},
        },
    }
    graph = call("Image.reproject", image=inner, crs="EPSG:4326")
    invocation = graph["values"]["0"]["functionInvocationValue"]
    assert invocation["functionName"] == "Image.reproject"
    assert invocation["arguments"]["crs"] == {"constantValue": "EPSG:4326"}
    assert invocation["arguments"]["image"] == {"valueReference": "0:1"}
    assert graph["values"]["0:0"] == inner["values"]["0"]
    assert graph["values"]["0:2"] == {"functionDefinitionValue": {"argumentNames": ["a"], "body": "0:0"}}
    spliced = graph["values"]["0:1"]["functionInvocationValue"]
    assert spliced["functionReference"] == "0:2"
    assert spliced["arguments"] == {
        "body": {"valueReference": "0:0"},
        "list": {"arrayValue": {"values": [{"valueReference": "0:0"}]}},
    }


def test_a_grid_without_dimensions_reprojects_the_image() -> None:
    expression = load(3, 4)
    value = {"affineTransform": {"scaleX": 1, "scaleY": -1, "translateX": 5}, "crsCode": "EPSG:4326"}
    grid, wrapped = parse_grid(value, expression)
    assert grid is None
    arguments = wrapped["values"]["0"]["functionInvocationValue"]["arguments"]
    assert arguments["crsTransform"] == {"constantValue": [1, 0, 5, 0, -1, 0]}
    assert parse_grid(None, expression) == (None, expression)
    assert parse_request({"bandIds": []}, expression).band_ids is None


@given(st.integers(1, 2000), st.integers(1, 2000), st.one_of(st.none(), st.integers(1, 200)))
def test_requests_that_are_surely_small_are_within_the_limits(width: int, height: int, bands: int | None) -> None:
    names = None if bands is None else ("b",) * bands
    request = PixelRequest(expression=load(1, 1), grid=grid_of(width, height), band_ids=names)
    if request.is_surely_small:
        check_limits(grid_of(width, height), [np.dtype("float64")] * (bands or 128))
    else:
        assert width * height * (bands or 128) * 9 > 50_331_648


def test_more_bands_than_the_service_takes() -> None:
    with pytest.raises(ServiceError, match=r"Number of bands \(1025\) must be less than or equal to 1024"):
        check_limits(grid_of(1, 1), [np.dtype("uint8")] * 1025)
