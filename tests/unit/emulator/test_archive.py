"""The archive: every bad line is named, real pixels come back as they are in the files."""

import json

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from shapely.geometry import Point, box

from m3etl.emulator.archive import _MOST_WINDOW_PIXELS, read_archive
from m3etl.emulator.model import CollectionQuery, ServiceError
from m3etl.errors import InputError

COLLECTION = "COPERNICUS/S2_SR_HARMONIZED"


def write_raster(
    path, *, crs="EPSG:32632", left=500_000.0, top=5_200_000.0, step=10.0, size=(40, 30), dtype="uint16", count=2
):
    """A raster whose band b has 10000 b + 100 row + column, with 0 at one pixel."""
    width, height = size
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=count, dtype=dtype, crs=crs,
        transform=Affine(step, 0, left, 0, -step, top),
    ) as target:  # fmt: skip
        for band in range(1, count + 1):
            layer = (10_000 * band + 100 * row + column).astype(dtype)
            layer[3, 4] = 0
            target.write(layer, band)


def line(index="20200408T143729_x", **changes):
    record = {
        "type": "IMAGE",
        "id": f"{COLLECTION}/{index}",
        "start": "2020-04-08T14:37:29Z",
        "license": "CC-BY-4.0",
        "properties": {"CLOUDY_PIXEL_PERCENTAGE": 1.0},
        "bands": [
            {"id": "B4", "href": "s2/a.tif", "index": 2, "nodata": 0},
            {"id": "B8", "href": "s2/a.tif", "index": 1},
        ],
    }
    return json.dumps({**record, **changes})


@pytest.fixture
def folder(tmp_path):
    write_raster(tmp_path / "s2" / "a.tif")
    return tmp_path


def listing(folder, *lines):
    (folder / "archive.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_pixels_come_back_as_written(folder):
    archive = read_archive(listing(folder, line()))
    image = archive.image(f"{COLLECTION}/20200408T143729_x")
    column, row = np.meshgrid(np.arange(-2, 12), np.arange(25, 33))
    values, valid = image.sample(["B4"], column, row)["B4"]
    inside = (column >= 0) & (row < 30)
    assert values.dtype == np.uint16
    np.testing.assert_array_equal(valid, inside)
    np.testing.assert_array_equal(values[inside], (20_000 + 100 * row + column)[inside])


def test_bands_are_found_by_name_and_nodata_is_not_valid(folder):
    image = read_archive(listing(folder, line())).image(f"{COLLECTION}/20200408T143729_x")
    samples = image.sample(["B8", "B4"], np.array([4, 5]), np.array([3, 3]))
    assert samples["B8"][0].tolist() == [0, 10_305]
    assert samples["B8"][1].tolist() == [True, True]
    assert samples["B4"][1].tolist() == [False, True]
    with pytest.raises(ServiceError, match="B99"):
        image.sample(["B99"], np.array([0]), np.array([0]))


def test_info_says_what_the_file_is(folder):
    info = read_archive(listing(folder, line())).image(f"{COLLECTION}/20200408T143729_x").info
    band = info.bands[0]
    assert (band.id, band.pixel_type.dtype, band.dimensions) == ("B4", np.uint16, (40, 30))
    assert band.projection.crs == "EPSG:32632"
    assert band.projection.transform == (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_200_000.0)
    assert info.properties["system:index"] == "20200408T143729_x"
    assert info.properties["system:time_start"] == 1_586_356_649_000
    assert "synthetic" not in info.properties
    assert info.license == "CC-BY-4.0"
    west, south, east, north = info.footprint.bounds
    assert 8.99 < west < east < 9.01
    assert 46.94 < south < north < 46.96


def test_license_is_unknown_where_it_is_not_said(folder):
    record = json.loads(line())
    del record["license"]
    info = read_archive(listing(folder, json.dumps(record))).image(f"{COLLECTION}/20200408T143729_x").info
    assert info.license == "unknown"


def test_find_orders_by_time_and_respects_every_bound(folder):
    write_raster(folder / "s2" / "far.tif", left=600_000.0)
    far = [{"id": "B4", "href": "s2/far.tif", "index": 1}]
    archive = read_archive(
        listing(
            folder,
            line("c", start="2021-01-01T00:00:00Z"),
            line("b", start="2020-01-01T00:00:00Z"),
            line("a", start="2020-01-01T00:00:00Z", bands=far),
        )
    )
    collection = archive.collection(COLLECTION)

    def found(**query):
        return [image.info.properties["system:index"] for image in collection.find(CollectionQuery(**query))]

    assert found() == ["a", "b", "c"]
    assert found(region=Point(9.001, 46.951)) == ["b", "c"]
    assert found(start_ms=1_609_459_200_000) == ["c"]
    assert found(end_ms=1_609_459_200_000) == ["a", "b"]
    assert found(index="b") == ["b"]
    assert found(region=box(100, 0, 101, 1)) == []


def test_footprint_of_a_raster_across_the_antimeridian_has_two_parts(tmp_path):
    write_raster(
        tmp_path / "s2" / "a.tif", crs="EPSG:32701", left=179_000.0, top=8_000_000.0, step=100.0, size=(60, 60)
    )
    info = read_archive(listing(tmp_path, line())).image(f"{COLLECTION}/20200408T143729_x").info
    assert len(info.footprint.geoms) == 2
    assert info.footprint.area < 0.01
    assert info.footprint.bounds[0] == -180.0
    assert info.footprint.bounds[2] == 180.0


def test_float_rasters_have_no_value_where_they_are_nan(tmp_path):
    path = tmp_path / "s2" / "a.tif"
    write_raster(path, dtype="float64")
    with rasterio.open(path, "r+") as target:
        layer = target.read(1)
        layer[0, 0] = np.nan
        target.write(layer, 1)
    image = read_archive(listing(tmp_path, line())).image(f"{COLLECTION}/20200408T143729_x")
    values, valid = image.sample(["B8"], np.array([0, 1]), np.array([0, 0]))["B8"]
    assert values.dtype == np.float64
    assert valid.tolist() == [False, True]


def test_a_raster_with_its_own_projection_keeps_it(tmp_path):
    text = CRS.from_proj4("+proj=laea +lat_0=50 +lon_0=10 +datum=WGS84").to_wkt()
    write_raster(tmp_path / "s2" / "a.tif", crs=text, left=0.0, top=0.0)
    band = read_archive(listing(tmp_path, line())).image(f"{COLLECTION}/20200408T143729_x").info.bands[0]
    assert CRS.from_user_input(band.projection.crs) == CRS.from_user_input(text)


def test_sparse_requests_read_small_windows(tmp_path, monkeypatch):
    write_raster(tmp_path / "s2" / "a.tif", size=(300, 200))
    monkeypatch.setattr("m3etl.emulator.archive._MOST_WINDOW_PIXELS", 900)
    image = read_archive(listing(tmp_path, line())).image(f"{COLLECTION}/20200408T143729_x")
    rng = np.random.default_rng(4)
    column, row = rng.integers(0, 300, 50), rng.integers(4, 200, 50)
    values, valid = image.sample(["B8"], column, row)["B8"]
    assert valid.all()
    np.testing.assert_array_equal(values, (10_000 + 100 * row + column).astype(np.uint16))
    assert _MOST_WINDOW_PIXELS > 900


def test_every_problem_is_reported_at_once(folder):
    (folder / "s2" / "broken.tif").write_bytes(b"not a raster")
    bad = [
        "{nonsense",
        line("ok"),
        line("ok"),
        line("e", start="yesterday"),
        line("f", type="VIDEO"),
        line("g", bands=[{"id": "B4", "href": "s2/missing.tif", "index": 1}]),
        line("h", bands=[{"id": "B4", "href": "s2/a.tif", "index": 3}]),
        line("i", bands=[{"id": "B4", "href": "s2/broken.tif", "index": 1}]),
        line("j", bands=[{"id": "B4", "href": "../outside.tif", "index": 1}]),
        line("k", bands=[]),
        json.dumps({"type": "TABLE", "id": "A/B", "href": "nowhere.shp"}),
        "[]",
    ]
    with pytest.raises(InputError) as caught:
        read_archive(listing(folder, *bad))
    message = caught.value.message
    expected = {
        1: "not JSON", 3: "occurs twice", 4: "bad time", 5: "unknown type 'VIDEO'", 6: "does not exist", 7: "index 3",
        8: "unreadable raster", 9: "leaves the archive", 10: "list of bands", 11: "does not exist", 12: "JSON object",
    }  # fmt: skip
    assert "11 problem(s)" in message
    for number, reason in expected.items():
        named = next(text for text in message.splitlines() if f"line {number}:" in text)
        assert "archive.jsonl" in named
        assert reason in named


def test_a_directory_without_a_listing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"archive\.jsonl does not exist"):
        read_archive(tmp_path)


def test_real_rasters_and_ecoregions(real_data):
    archive = read_archive(real_data)
    image = archive.image("COPERNICUS/S1_GRD/20200411T234309_433D_629L_3_1")
    column, row = np.meshgrid(np.arange(224), np.arange(224))
    values, valid = image.sample(["VV", "VH"], column, row)["VH"]
    with rasterio.open(real_data / "terramind" / "S1RTC" / "433D_629L_3_1.tif") as source:
        np.testing.assert_array_equal(values, source.read(2))
    assert values.dtype == np.float64
    assert valid.all()
    table = archive.table("RESOLVE/ECOREGIONS/2017")
    assert len(table.features) == 847
    biomes = {feature.properties["BIOME_NAME"] for feature in table.features}
    assert len(biomes) == 15
    assert all(isinstance(feature.properties["ECO_ID"], int) for feature in table.features)
    assert archive.table("RESOLVE/ECOREGIONS/2017") is table
