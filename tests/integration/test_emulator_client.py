"""The unmodified client against the embedded Earth Engine as it ships: its own process, the planet, real graphs."""

from __future__ import annotations

import io
import json
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from m3etl.emulator.process import EmbeddedServer, start_embedded
from tests.integration.emulator_client import connected, ee, project

place = (8.55, 47.37)
utm = "EPSG:32632"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    state = tmp_path_factory.mktemp("state")
    with start_embedded(state_dir=state, log=state / "log.jsonl") as running, connected(running.url):
        yield running


def chip_grid(size: int = 64, scale: float = 10.0) -> dict[str, Any]:
    return {
        "dimensions": {"width": size, "height": size},
        "affineTransform": {"scaleX": scale, "translateX": 465_000, "scaleY": -scale, "translateY": 5_247_000},
        "crsCode": utm,
    }


def sentinel2() -> Any:
    """The first Sentinel-2 scene over the place in summer 2019."""
    scenes = ee.ImageCollection("COPERNICUS/S2_SR_HARMONIZED")
    return scenes.filterBounds(ee.Geometry.Point(place)).filterDate("2019-06-01", "2019-09-01").first()


def test_get_info_of_every_kind_of_object(server: EmbeddedServer) -> None:
    assert ee.Number(2).add(3).getInfo() == 5
    assert ee.String("a").cat("b").getInfo() == "ab"
    assert ee.List([1, 2]).size().getInfo() == 2
    assert ee.Dictionary({"a": 1}).get("a").getInfo() == 1
    date = ee.Date("2020-01-02").getInfo()
    assert (date["type"], date["value"]) == ("Date", 1_577_923_200_000)
    geometry = ee.Geometry.Point(place).getInfo()
    assert (geometry["type"], tuple(geometry["coordinates"])) == ("Point", place)
    feature = ee.Feature(ee.Geometry.Point(place), {"a": 1}).getInfo()
    assert (feature["type"], feature["properties"]) == ("Feature", {"a": 1})
    collection = ee.FeatureCollection([ee.Feature(None, {"a": 1}), ee.Feature(None, {"a": 2})]).getInfo()
    assert [item["properties"]["a"] for item in collection["features"]] == [1, 2]
    assert "columns" in collection
    projection = ee.Projection(utm).getInfo()
    assert (projection["type"], projection["crs"]) == ("Projection", utm)
    image = ee.Image(1).addBands(ee.Image(2.5)).rename(["a", "b"]).getInfo()
    assert [band["id"] for band in image["bands"]] == ["a", "b"]


def test_a_scene_and_its_description(server: EmbeddedServer) -> None:
    scene = sentinel2().getInfo()
    assert scene["id"].startswith("COPERNICUS/S2_SR_HARMONIZED/")
    assert "B4" in [band["id"] for band in scene["bands"]]
    asset = ee.data.getAsset(scene["id"])
    assert (asset["type"], asset["id"]) == ("IMAGE", scene["id"])
    assert asset["startTime"].startswith("2019-0")
    assert [band["id"] for band in asset["bands"]] == [band["id"] for band in scene["bands"]]


def test_listing_agrees_with_filtering(server: EmbeddedServer) -> None:
    region = ee.Geometry.Point(place)
    scenes = (
        ee.ImageCollection("COPERNICUS/S2_SR_HARMONIZED").filterBounds(region).filterDate("2019-06-01", "2019-07-01")
    )
    filtered = scenes.aggregate_array("system:index").getInfo()
    listed = ee.data.listImages(
        {
            "parent": "COPERNICUS/S2_SR_HARMONIZED",
            "startTime": "2019-06-01T00:00:00Z",
            "endTime": "2019-07-01T00:00:00Z",
            "region": {"type": "Point", "coordinates": list(place)},
        }
    )["images"]
    assert filtered
    assert sorted(image["id"].rpartition("/")[2] for image in listed) == sorted(filtered)
    assert ee.data.getAsset("COPERNICUS/S2_SR_HARMONIZED")["type"] == "IMAGE_COLLECTION"
    assert ee.data.listAssets("COPERNICUS")["assets"]


def test_pixels_of_mixed_types_on_an_explicit_grid(server: EmbeddedServer) -> None:
    image = sentinel2().select(["B4", "B8"]).unmask(0, False)
    index = image.normalizedDifference(["B8", "B4"]).rename("ndvi").toFloat().unmask(-9, False)
    image = image.addBands(index)
    values = ee.data.computePixels({"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": chip_grid()})
    assert values.shape == (64, 64)
    assert [values.dtype[name] for name in ("B4", "B8", "ndvi")] == [np.uint16, np.uint16, np.float32]
    red, infrared = values["B4"].astype(float), values["B8"].astype(float)
    seen = (values["ndvi"] > -2) & (red + infrared > 0)
    expected = (infrared - red)[seen] / (infrared + red)[seen]
    np.testing.assert_allclose(values["ndvi"][seen], expected, atol=1e-6)


def test_geotiff_pixels_agree_with_npy(server: EmbeddedServer) -> None:
    image = sentinel2().select(["B4", "B3"]).unmask(0, False)
    request = {"expression": image, "grid": chip_grid(32)}
    values = ee.data.computePixels(request | {"fileFormat": "NUMPY_NDARRAY"})
    data = ee.data.computePixels(request | {"fileFormat": "GEO_TIFF"})
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        assert source.descriptions == ("B4", "B3")
        assert source.crs.to_epsg() == 32632
        assert tuple(source.transform)[:6] == (10, 0, 465_000, 0, -10, 5_247_000)
        np.testing.assert_array_equal(source.read(), np.stack([values["B4"], values["B3"]]))


def test_pixels_of_an_asset(server: EmbeddedServer) -> None:
    scene = sentinel2()
    identifier = scene.get("system:id").getInfo() or scene.getInfo()["id"]
    request = {"fileFormat": "NUMPY_NDARRAY", "grid": chip_grid(16), "bandIds": ["B2"]}
    direct = ee.data.getPixels({"assetId": identifier, **request})
    computed = ee.data.computePixels({"expression": ee.Image(identifier), **request})
    np.testing.assert_array_equal(direct, computed)


def test_features_follow_their_pages(server: EmbeddedServer) -> None:
    numbers = ee.FeatureCollection(ee.List.sequence(0, 24).map(lambda n: ee.Feature(None, {"n": n})))
    page = ee.data.computeFeatures({"expression": numbers, "pageSize": 10})
    assert (len(page["features"]), bool(page["nextPageToken"])) == (10, True)
    frame = ee.data.computeFeatures({"expression": numbers, "pageSize": 10, "fileFormat": "PANDAS_DATAFRAME"})
    assert frame["n"].tolist() == list(range(25))


def test_ecoregions_are_a_table(server: EmbeddedServer) -> None:
    table = ee.FeatureCollection("RESOLVE/ECOREGIONS/2017").filterBounds(ee.Geometry.Point(place))
    assert table.first().get("BIOME_NAME").getInfo()
    assert ee.data.getAsset("RESOLVE/ECOREGIONS/2017")["type"] == "TABLE"


def test_download_urls_in_mmearths_style(server: EmbeddedServer) -> None:
    """Scale, region and CRS folded into the graph by the client, then a plain GET."""
    region = ee.Geometry.Point(place).buffer(650).bounds()
    image = sentinel2().select(["B4", "B8"]).float().addBands(ee.Image.constant(3).rename("c"))
    url = image.getDownloadURL({"scale": 10, "crs": utm, "region": region, "format": "GEO_TIFF", "name": "tile"})
    with urllib.request.urlopen(url, timeout=30) as response:
        assert response.headers["Content-Type"] == "image/tiff"
        data = response.read()
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        assert source.descriptions == ("B4", "B8", "c")
        assert source.dtypes == ("float32",) * 3
        assert source.crs.to_epsg() == 32632
        assert (source.transform.a, source.transform.e) == (10, -10)
        assert 128 <= source.width <= 134
        assert 128 <= source.height <= 134


def test_download_urls_with_an_exact_grid(server: EmbeddedServer) -> None:
    parameters = {"crs": utm, "crs_transform": [10, 0, 465_000, 0, -10, 5_247_000], "dimensions": [40, 30]}
    image = sentinel2().select(["B4"]).unmask(0, False)
    with urllib.request.urlopen(image.getDownloadURL({**parameters, "format": "NPY"}), timeout=30) as response:
        values = np.load(io.BytesIO(response.read()))
    grid = chip_grid() | {"dimensions": {"width": 40, "height": 30}}
    expected = ee.data.computePixels({"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": grid})
    np.testing.assert_array_equal(values, expected)
    with urllib.request.urlopen(image.getDownloadURL(parameters), timeout=30) as response:
        names = zipfile.ZipFile(io.BytesIO(response.read())).namelist()
    assert names == ["download.B4.tif"]


def test_thumbnails_and_map_tiles(server: EmbeddedServer) -> None:
    image = sentinel2().select(["B4", "B3", "B2"])
    look = {"min": 0, "max": 3000}
    region = ee.Geometry.Point(place).buffer(500).bounds()
    with urllib.request.urlopen(
        image.getThumbURL({**look, "region": region, "dimensions": 64}), timeout=30
    ) as response:
        assert response.read()[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")
    tiles = image.getMapId(look)["tile_fetcher"]
    assert tiles.fetch_tile(8581, 5740, 14)[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")


def test_tables_download(server: EmbeddedServer) -> None:
    table = ee.FeatureCollection([ee.Feature(ee.Geometry.Point(place), {"a": 1})])
    with urllib.request.urlopen(table.getDownloadURL("CSV", ["a"], "t"), timeout=30) as response:
        assert response.read() == b"a\n1\n"
    with urllib.request.urlopen(table.getDownloadURL("GeoJSON"), timeout=30) as response:
        assert json.load(response)["features"][0]["properties"]["a"] == 1


def test_batch_exports_agree_with_interactive_pixels(server: EmbeddedServer) -> None:
    image = sentinel2().select(["B4", "B8"]).unmask(0, False)
    task = ee.batch.Export.image.toCloudStorage(
        image=image,
        description="chip",
        bucket="my-bucket",
        fileNamePrefix="chips/one",
        crs=utm,
        crsTransform=[10, 0, 465_000, 0, -10, 5_247_000],
        dimensions="300x280",
        fileDimensions=256,
        formatOptions={"cloudOptimized": True},
    )
    task.start()
    assert finished(task)["state"] == "COMPLETED", task.status()
    grid = chip_grid() | {"dimensions": {"width": 300, "height": 280}}
    expected = ee.data.computePixels({"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": grid})
    found = np.zeros((2, 280, 300), dtype=np.uint16)
    with urllib.request.urlopen(f"{server.url}/storage/v1/b/my-bucket/o?prefix=chips/", timeout=10) as response:
        names = [item["name"] for item in json.load(response)["items"]]
    assert len(names) == 4
    for name in names:
        row, column = (int(part) for part in name.removesuffix(".tif")[-21:].split("-"))
        with urllib.request.urlopen(f"{server.url}/my-bucket/{name}", timeout=10) as response:
            data = response.read()
        with rasterio.MemoryFile(data) as memory, memory.open() as source:
            found[:, row : row + source.height, column : column + source.width] = source.read()
    np.testing.assert_array_equal(found, np.stack([expected["B4"], expected["B8"]]))


def test_a_table_export_and_a_failing_export(server: EmbeddedServer) -> None:
    table = ee.FeatureCollection([ee.Feature(ee.Geometry.Point(place), {"a": 1})])
    task = ee.batch.Export.table.toDrive(collection=table, description="rows", folder="f", selectors=["a"])
    task.start()
    assert finished(task)["state"] == "COMPLETED"
    mixed = ee.Image(1.5).addBands(ee.Image(2).toByte())
    region = ee.Geometry.Point(place).buffer(100).bounds()
    task = ee.batch.Export.image.toDrive(image=mixed, description="mixed", region=region, scale=10)
    task.start()
    status = finished(task)
    assert status["state"] == "FAILED"
    assert "Exported bands must have compatible data types; found inconsistent types" in status["error_message"]


def finished(task: ee.batch.Task) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while task.active():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return dict(task.status())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ee.Image("NOT/THERE").getInfo(), "not found"),
        (lambda: ee.Image(1).select("nope").getInfo(), "nope"),
        (lambda: ee.Number.parse("x").getInfo(), "x"),
        (
            lambda: ee.FeatureCollection(ee.List.sequence(1, 5001).map(lambda n: ee.Feature(None, {"n": n}))).getInfo(),
            "Collection query aborted after accumulating over 5000 elements.",
        ),
    ],
)
def test_errors_of_the_service(server: EmbeddedServer, make: Any, said: str) -> None:
    with pytest.raises(ee.EEException) as caught:
        make()
    assert said in str(caught.value)
    assert caught.value.__context__.resp.status in (400, 404)


def test_requests_are_logged_with_their_cost(server: EmbeddedServer, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"latency": {"per_band_ms": 50, "per_scene_ms": 100}}))
    graph = ee.serializer.encode(sentinel2().select(["B4", "B8"]))
    body = json.dumps({"expression": graph, "fileFormat": "NPY", "grid": chip_grid(16)}).encode()
    with start_embedded(log=log, faults=faults) as other:
        started = time.monotonic()
        url = f"{other.url}/v1/projects/{project}/image:computePixels"
        with urllib.request.urlopen(urllib.request.Request(url, data=body, method="POST"), timeout=30) as response:
            assert np.load(io.BytesIO(response.read())).dtype.names == ("B4", "B8")
        assert time.monotonic() - started >= 0.2
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    entry = next(entry for entry in entries if entry["path"].endswith("image:computePixels"))
    assert entry["path"] == f"/v1/projects/{project}/image:computePixels"
    assert (entry["bands"], entry["scenes"]) == (2, 1)
    assert entry["eecu_s"] > 0
