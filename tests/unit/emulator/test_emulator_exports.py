"""Exports: GeoTIFF files by tile, their type and size rules, tables, and where the files go."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from fakes.embedded import ask, fake_server, fake_service, post
from fakes.engine import FakeEvaluator, FakeShape, constant, load
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.emulator.exports import ImageOptions, plan_files
from m3etl.emulator.http_server import EmulatorServer
from m3etl.emulator.model import Grid, Projection
from m3etl.emulator.server import running


def image_export(width: int, height: int, **options: Any) -> dict[str, Any]:
    file_options = {
        "fileFormat": "GEO_TIFF",
        "cloudStorageDestination": {"bucket": "bucket-one", "filenamePrefix": "deep/image"},
        **({"geoTiffOptions": options} if options else {}),
    }
    return {"expression": load(width, height), "description": "d", "fileExportOptions": file_options}


def carry_out(server: EmulatorServer, body: dict[str, Any], kind: str = "image:export") -> dict[str, Any]:
    answer = post(server, kind, body)
    assert answer.status == 200, answer.body
    path = f"/v1/{answer.json['name']}:wait"
    operation = ask(server, "POST", path, {"timeout": "20s"}).json
    assert operation["done"]
    return dict(operation)


def check_pixels(path: Path, column: int = 0, row: int = 0) -> tuple[int, int]:
    with rasterio.open(path) as source:
        rows, columns = np.mgrid[row : row + source.height, column : column + source.width]
        values = source.read()
        seen = (rows != 1) | (columns != 1)
        assert source.descriptions == ("column", "row", "sum")
        assert source.transform.c == 400_000 + 10 * column
        assert source.transform.f == 5_000_000 - 10 * row
        np.testing.assert_array_equal(values[0][seen], columns[seen])
        np.testing.assert_array_equal(values[2][seen], (rows + columns)[seen])
        return int(source.width), int(source.height)


def test_one_file_to_cloud_storage(tmp_path: Path) -> None:
    with fake_server(tmp_path, FakeEvaluator(uniform=True)) as server:
        operation = carry_out(server, image_export(700, 300))
    metadata = operation["metadata"]
    assert metadata["state"] == "SUCCEEDED"
    assert metadata["type"] == "EXPORT_IMAGE"
    assert metadata["batchEecuUsageSeconds"] > 0
    assert metadata["destinationUris"] == ["https://console.developers.google.com/storage/browser/bucket-one/deep"]
    folder = tmp_path / "buckets" / "bucket-one" / "deep"
    assert [path.name for path in folder.iterdir()] == ["image.tif"]
    assert check_pixels(folder / "image.tif") == (700, 300)
    with rasterio.open(folder / "image.tif") as source:
        assert source.dtypes == ("float32",) * 3
        assert source.block_shapes[0] == (256, 256)
        assert np.isnan(source.read(1)[1, 1])
        assert source.nodata is None


def test_file_dimensions_make_several_files_named_by_their_corner(tmp_path: Path) -> None:
    body = image_export(300, 200, tileDimensions={"width": 128, "height": 192}, tileSize={"value": 64})
    with fake_server(tmp_path, FakeEvaluator(uniform=True)) as server:
        assert carry_out(server, body)["metadata"]["state"] == "SUCCEEDED"
    folder = tmp_path / "buckets" / "bucket-one" / "deep"
    sizes = {}
    for path in sorted(folder.iterdir()):
        row, column = path.stem.removeprefix("image").split("-")
        assert (len(row), len(column)) == (10, 10)
        sizes[path.name] = check_pixels(path, int(column), int(row))
    assert list(sizes.values()) == [(128, 192), (128, 192), (44, 192), (128, 8), (128, 8), (44, 8)]
    assert "image0000000192-0000000256.tif" in sizes


def test_cloud_optimized_files_have_overviews_and_nodata(tmp_path: Path) -> None:
    body = image_export(600, 600, cloudOptimized=True, noData={"floatValue": -99})
    with fake_server(tmp_path, FakeEvaluator(uniform=True)) as server:
        assert carry_out(server, body)["metadata"]["state"] == "SUCCEEDED"
    path = tmp_path / "buckets" / "bucket-one" / "deep" / "image.tif"
    assert [item.name for item in path.parent.iterdir()] == ["image.tif"]
    check_pixels(path)
    with rasterio.open(path) as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.overviews(1)
        assert (source.nodata, source.read(1)[1, 1]) == (-99, -99)


def test_empty_files_can_be_left_out(tmp_path: Path) -> None:
    class Empty(FakeEvaluator):
        def pixels(self, expression: Any, **options: Any) -> Any:
            raster = super().pixels(expression, **options)
            for valid in raster.valid.values():
                valid[:] = False
            return raster

    with fake_server(tmp_path, Empty(uniform=True)) as server:
        assert carry_out(server, image_export(20, 20, skipEmptyFiles=True))["metadata"]["state"] == "SUCCEEDED"
        assert list((tmp_path / "buckets" / "bucket-one" / "deep").iterdir()) == []
        carry_out(server, image_export(20, 20))
    assert len(list((tmp_path / "buckets" / "bucket-one" / "deep").iterdir())) == 1


def test_bands_of_several_types_fail(tmp_path: Path) -> None:
    with fake_server(tmp_path) as server:
        operation = carry_out(server, image_export(20, 20))
    assert operation["metadata"]["state"] == "FAILED"
    assert operation["error"] == {
        "code": 3,
        "message": "Exported bands must have compatible data types; "
        "found inconsistent types: UInt16 and Float32. (Error code: 3)",
    }


def test_more_pixels_than_allowed_fail(tmp_path: Path) -> None:
    with fake_server(tmp_path, FakeEvaluator(uniform=True)) as server:
        operation = carry_out(server, image_export(20_000, 10_000))
        assert operation["error"]["message"].startswith(
            "Export too large: specified 200000000 pixels (max: 100000000)."
        )
        operation = carry_out(server, image_export(20, 20) | {"maxPixels": {"value": "399"}})
        assert "specified 400 pixels (max: 399)" in operation["error"]["message"]
        assert (
            carry_out(server, image_export(20, 20) | {"maxPixels": {"value": "400"}})["metadata"]["state"]
            == "SUCCEEDED"
        )
        body = image_export(20, 20, tileDimensions={"width": 65536, "height": 65536})
        assert "must be less than 17179869184 bytes" in carry_out(server, body)["error"]["message"]


def test_to_drive(tmp_path: Path) -> None:
    body = image_export(20, 20)
    body["fileExportOptions"] = {
        "fileFormat": "GEO_TIFF",
        "driveDestination": {"folder": "chips", "filenamePrefix": "a/b"},
    }
    with fake_server(tmp_path, FakeEvaluator(uniform=True)) as server:
        assert carry_out(server, body)["metadata"]["destinationUris"] == ["https://drive.google.com/#folders/chips"]
    check_pixels(tmp_path / "drive" / "chips" / "a_b.tif")


def test_tables(tmp_path: Path) -> None:
    destination = {"bucket": "bucket-one", "filenamePrefix": "table"}
    with fake_server(tmp_path) as server:
        for file_format, suffix in (("CSV", ".csv"), ("GEO_JSON", ".geojson"), ("KML", ".kml")):
            options = {"fileFormat": file_format, "cloudStorageDestination": destination}
            body = {"expression": constant(3), "fileExportOptions": options, "selectors": ["number"]}
            operation = carry_out(server, body, "table:export")
            assert (operation["metadata"]["state"], operation["metadata"]["type"]) == ("SUCCEEDED", "EXPORT_FEATURES")
            assert (tmp_path / "buckets" / "bucket-one" / f"table{suffix}").stat().st_size > 0
    assert (tmp_path / "buckets" / "bucket-one" / "table.csv").read_text() == "number\n0\n1\n2\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"expression": None}, "Invalid value at 'expression'"),
        ({"fileExportOptions": None, "assetExportOptions": {}}, "Only exports to Cloud Storage and Drive"),
        (
            {"fileExportOptions": {"fileFormat": "GEO_TIFF"}},
            "Export needs a cloudStorageDestination or a driveDestination",
        ),
        (
            {"fileExportOptions": {"fileFormat": "TF_RECORD_IMAGE", "driveDestination": {}}},
            "TF_RECORD_IMAGE are not served",
        ),
        ({"maxPixels": {"value": "many"}}, "Invalid value at 'maxPixels'"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with fake_server(tmp_path) as server:
        answer = post(server, "image:export", image_export(20, 20) | change)
    assert answer.status == 400
    assert said in answer.message


@pytest.mark.parametrize("prefix", ["../x", "a/../../x", "/etc/x", "a//b", "a\0b"])
def test_names_cannot_leave_the_state_directory(tmp_path: Path, prefix: str) -> None:
    body = image_export(20, 20)
    body["fileExportOptions"]["cloudStorageDestination"]["filenamePrefix"] = prefix
    with fake_server(tmp_path / "state") as server:
        assert post(server, "image:export", body).status == 400
        body["fileExportOptions"]["cloudStorageDestination"] = {"bucket": "..", "filenamePrefix": "x"}
        assert post(server, "image:export", body).status == 400
        body["fileExportOptions"]["cloudStorageDestination"] = {"bucket": "a/b", "filenamePrefix": "x"}
        assert post(server, "image:export", body).status == 400
    assert not (tmp_path / "state" / "buckets").exists()


def test_file_dimensions_must_fit_the_tiles(tmp_path: Path) -> None:
    with fake_server(tmp_path) as server:
        body = image_export(20, 20, tileDimensions={"width": 100, "height": 256})
        assert "must be a multiple of the tile size (256)" in post(server, "image:export", body).message


def test_a_restart_keeps_the_files_that_were_complete(tmp_path: Path) -> None:
    class Halting(FakeEvaluator):
        """Lets two blocks pass, then waits."""

        def pixels(self, expression: Any, **options: Any) -> Any:
            if self.calls.count("pixels") == 2:
                self.released.clear()
            return super().pixels(expression, **options)

    body = image_export(256, 64, tileDimensions={"width": 64, "height": 64}, tileSize={"value": 64})
    halting = Halting(uniform=True)
    with running(fake_service(tmp_path, halting)) as server:
        name = post(server, "image:export", body).json["name"]
        while halting.calls.count("pixels") < 3:
            time.sleep(0.002)
        folder = tmp_path / "buckets" / "bucket-one" / "deep"
        complete = {path.name: path.stat().st_mtime_ns for path in folder.glob("image*.tif")}
        assert len(complete) == 2
        threading.Timer(0.05, halting.released.set).start()
    evaluator = FakeEvaluator(uniform=True)
    with running(fake_service(tmp_path, evaluator)) as server:
        operation = ask(server, "POST", f"/v1/{name}:wait", {}).json
    assert (operation["metadata"]["state"], operation["metadata"]["attempt"]) == ("SUCCEEDED", 2)
    assert evaluator.calls.count("pixels") < 4
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(files) == 4
    assert complete.items() <= files.items()


@settings(max_examples=25)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([None, (256, 256), (512, 1024)]))
def test_files_cover_every_pixel_once(width: int, height: int, file_px: tuple[int, int] | None) -> None:
    grid = Grid(projection=Projection(crs="EPSG:4326", transform=(1, 0, 0, 0, -1, 0)), width=width, height=height)
    shape = FakeShape(grid=grid, dtypes={"a": np.dtype("uint8")})
    options = ImageOptions(
        shard_px=256, file_px=file_px, nodata=None, cloud_optimized=False, skip_empty=False, max_pixels=1
    )
    count = np.zeros((height, width), dtype=np.uint8)
    files = list(plan_files(shape, options))
    for file in files:
        count[file.row : file.row + file.height, file.column : file.column + file.width] += 1
    assert count.min() == count.max() == 1
    assert len({file.suffix for file in files}) == len(files)
