"""The real client over a socket against the transport alone: what Initialize needs, errors, pages, exports, profiles.

The evaluator is a fake that knows constants and "fake/WxH" images; `test_emulator_client.py` has the real one.
"""

from __future__ import annotations

import io
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.embedded import fake_server
from fakes.engine import FakeEvaluator

from m3etl.emulator.http_server import EmulatorServer
from tests.integration.emulator_client import connected, ee, project


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmulatorServer]:
    with fake_server(tmp_path, FakeEvaluator(uniform=True)) as running, connected(running.url):
        yield running


def utm_grid(width: int, height: int) -> dict[str, Any]:
    return {
        "dimensions": {"width": width, "height": height},
        "affineTransform": {"scaleX": 10, "translateX": 400_000, "scaleY": -10, "translateY": 5_000_000},
        "crsCode": "EPSG:32632",
    }


def test_initialize_brings_the_algorithms(server: EmulatorServer) -> None:
    names = ee.data.getAlgorithms()
    assert len(names) > 900
    assert names["Image.load"]["args"][0]["name"] == "id"
    assert hasattr(ee.Image, "normalizedDifference")


def test_initialize_is_quick(server: EmulatorServer) -> None:
    started = time.process_time()
    with connected(server.url):
        pass
    assert time.process_time() - started < 5.0


def test_values_and_errors(server: EmulatorServer) -> None:
    assert ee.String("a").getInfo() == "a"
    assert ee.Number(3).getInfo() == 3
    assert ee.List([1, "two", [3]]).getInfo() == [1, "two", [3]]
    assert ee.Dictionary({"a": 1}).getInfo() == {"a": 1}
    with pytest.raises(ee.EEException, match="Image asset 'NOT/THERE' not found") as caught:
        ee.Image("NOT/THERE").getInfo()
    assert caught.value.__context__.resp.status == 400
    assert ee.Image("fake/8x6").getInfo()["bands"][0]["id"] == "column"


def test_compute_pixels_as_arrays_and_bytes(server: EmulatorServer) -> None:
    image = ee.Image("fake/8x6")
    request = {"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": utm_grid(4, 3), "bandIds": ["row", "sum"]}
    values = ee.data.computePixels(request)
    assert values.dtype.names == ("row", "sum")
    assert values["row"][:, 3].tolist() == [0, 1, 2]
    data = ee.data.computePixels(request | {"fileFormat": "GEO_TIFF"})
    assert data[:4] in (b"II*\0", b"II+\0")
    with pytest.raises(ee.EEException, match="Pixel grid dimensions") as caught:
        ee.data.computePixels(request | {"grid": utm_grid(40_000, 3)})
    assert caught.value.__context__.resp.status == 400


def test_get_pixels_of_an_asset_that_is_not_there(server: EmulatorServer) -> None:
    with pytest.raises(ee.EEException, match="Asset 'FAKE/NONE' not found"):
        ee.data.getPixels({"assetId": "FAKE/NONE", "fileFormat": "NPY"})


def test_assets_are_described_and_listed(server: EmulatorServer) -> None:
    assert ee.data.getAsset("FAKE/DAILY")["type"] == "IMAGE_COLLECTION"
    with pytest.raises(ee.EEException, match="Asset 'FAKE/NONE' not found") as caught:
        ee.data.getAsset("FAKE/NONE")
    assert caught.value.__context__.resp.status == 404
    assert [asset["id"] for asset in ee.data.listAssets("FAKE")["assets"]] == ["FAKE/DAILY", "FAKE/TABLE"]
    everything = ee.data.listImages("FAKE/DAILY")
    assert (len(everything["images"]), "nextPageToken" in everything) == (60, False)
    few = ee.data.listImages(
        {
            "parent": "FAKE/DAILY",
            "startTime": "1970-01-05T00:00:00Z",
            "endTime": "1970-01-21T00:00:00Z",
            "region": {"type": "LineString", "coordinates": [[6, 40.5], [12, 40.5]]},
            "properties": ["CLOUD>=7", "properties.CLOUD<9"],
            "view": "BASIC",
            "pageSize": 10,
        }
    )
    assert [image["id"] for image in few["images"]] == ["FAKE/DAILY/d007", "FAKE/DAILY/d008"]
    page = ee.data.listImages({"parent": "FAKE/DAILY", "pageSize": 7})
    assert (len(page["images"]), bool(page["nextPageToken"])) == (7, True)
    assert ee.data.listFeatures({"assetId": "FAKE/TABLE", "filter": "properties.n >= 3"})["features"][0]["id"] == "3"
    assert ee.data.listBuckets() == {"assets": []}
    with pytest.raises(ee.EEException, match="not served by the embedded Earth Engine"):
        ee.data.createFolder("projects/my-project/assets/folder")


def test_downloads_by_url(server: EmulatorServer) -> None:
    url = ee.data.makeDownloadUrl(ee.data.getDownloadId({"image": ee.Image("fake/8x6"), "format": "NPY"}))
    assert url.startswith(f"{server.url}/v1/projects/{project}/thumbnails/")
    with urllib.request.urlopen(url, timeout=10) as response:
        assert np.load(io.BytesIO(response.read()))["sum"].shape == (6, 8)
    with pytest.raises(ee.EEException, match="Pixel grid dimensions"):
        ee.Image("fake/8x40000").getDownloadURL({"format": "NPY"})


def test_the_project_has_a_configuration(server: EmulatorServer) -> None:
    assert ee.data.getProjectConfig()["maxConcurrentExports"] == 2
    assert ee.data.updateProjectConfig({"maxConcurrentExports": 4})["maxConcurrentExports"] == 4


def test_exports_to_cloud_storage_and_drive(server: EmulatorServer, tmp_path: Path) -> None:
    image = ee.Image("fake/70x50")
    tasks = [
        ee.batch.Export.image.toCloudStorage(image=image, description="gcs", bucket="my-bucket", fileNamePrefix="a/b"),
        ee.batch.Export.image.toDrive(image=image, description="drive", folder="f"),
    ]
    for task in tasks:
        task.start()
    states = [finished(task)["state"] for task in tasks]
    assert states == ["COMPLETED", "COMPLETED"]
    assert (tmp_path / "buckets" / "my-bucket" / "a" / "b.tif").is_file()
    assert (tmp_path / "drive" / "f" / "drive.tif").is_file()
    status = tasks[0].status()
    assert status["task_type"] == "EXPORT_IMAGE"
    assert status["batch_eecu_usage_seconds"] > 0
    assert status["destination_uris"][0].endswith("/my-bucket/a")
    assert {task.config["description"] for task in ee.batch.Task.list()} == {"gcs", "drive"}


def test_failed_and_repeated_exports(tmp_path: Path) -> None:
    with fake_server(tmp_path, FakeEvaluator()) as server, connected(server.url):
        request = {
            "expression": ee.Image("fake/8x6"),
            "description": "mixed",
            "fileExportOptions": {"fileFormat": "GEO_TIFF", "driveDestination": {"folder": "f", "filenamePrefix": "p"}},
        }
        first = ee.data.exportImage("job-1", request)
        again = ee.data.exportImage("job-1", request)
        assert first["name"] == again["name"]
        assert len(ee.data.listOperations()) == 1
        task = ee.batch.Task.list()[0]
        status = finished(task)
        assert status["state"] == "FAILED"
        assert status["error_message"].startswith("Exported bands must have compatible data types")
        assert ee.data.getOperation(first["name"])["error"]["code"] == 3
        with pytest.raises(ee.EEException, match="Operation NOPE not found"):
            ee.data.getOperation(f"projects/{project}/operations/NOPE")


def test_a_running_export_is_cancelled(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(uniform=True)
    evaluator.released.clear()
    with fake_server(tmp_path, evaluator) as server, connected(server.url):
        task = ee.batch.Export.image.toDrive(image=ee.Image("fake/8x6"), description="d", folder="f")
        task.start()
        while not evaluator.calls:
            time.sleep(0.002)
        assert task.active()
        task.cancel()
        assert task.status()["state"] == "CANCEL_REQUESTED"
        evaluator.released.set()
        assert finished(task)["state"] == "CANCELLED"
    assert not (tmp_path / "drive" / "f" / "d.tif").exists()


def finished(task: ee.batch.Task) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while task.active():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return dict(task.status())


def test_profiles_are_served(server: EmulatorServer) -> None:
    text = io.StringIO()
    with ee.profilePrinting(destination=text):
        ee.Image("fake/8x6").getInfo()
        ee.data.computePixels({"expression": ee.Image("fake/8x6"), "fileFormat": "NPY", "grid": utm_grid(4, 3)})
    assert text.getvalue().splitlines()[0].split() == ["EECU·s", "PeakMem", "Count", "Description"]
    assert "image:computePixels" in text.getvalue()


@pytest.mark.parametrize(
    ("rule", "error", "said", "status"),
    [
        ({"status": 429}, "EEException", "concurrency limit was exceeded", 429),
        ({"status": 503}, "EEException", "Earth Engine capacity exceeded", 503),
        ({"status": 504, "html": "<html/>"}, "EEException", "", 504),
        ({"html": "<html>Sorry</html>"}, "TypeError", "", None),
        ({"drop": True}, "ConnectionError", "", None),
        ({"truncate": True}, "ConnectionError", "", None),
    ],
)
def test_the_client_sees_scripted_faults_as_it_would_the_services(
    tmp_path: Path, rule: dict[str, Any], error: str, said: str, status: int | None
) -> None:
    faults = {"rules": [{"path": "value:compute", "calls": {"first": 1}, **rule}]}
    kinds = {"EEException": ee.EEException, "TypeError": TypeError, "ConnectionError": ConnectionError}
    with fake_server(tmp_path, faults=faults) as server, connected(server.url):
        with pytest.raises(kinds[error]) as caught:
            ee.Number(5).getInfo()
        assert said in str(caught.value)
        if status is not None:
            assert caught.value.__context__.resp.status == status
        assert ee.Number(5).getInfo() == 5


def test_html_instead_of_pixels_reaches_the_caller_as_bytes(tmp_path: Path) -> None:
    faults = {"rules": [{"path": "computePixels", "html": "<html>Sorry</html>"}]}
    with fake_server(tmp_path, faults=faults) as server, connected(server.url):
        request = {"expression": ee.Image("fake/8x6"), "fileFormat": "NPY", "grid": utm_grid(4, 3)}
        assert ee.data.computePixels(request) == b"<html>Sorry</html>"


def test_the_clients_own_retries_get_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"rules": [{"path": "value:compute", "calls": {"first": 2}, "status": 503}]}
    monkeypatch.setattr("random.random", lambda: 0.0)  # the client waits random() * 2 ** n seconds
    log = tmp_path / "log.jsonl"
    with fake_server(tmp_path, faults=faults, log=log) as server, connected(server.url, retries=3):
        assert ee.Number(5).getInfo() == 5
    statuses = [
        entry["status"] for entry in map(json.loads, log.read_text().splitlines()) if "compute" in entry["path"]
    ]
    assert statuses == [503, 503, 200]


def test_restricted_mode_is_announced(tmp_path: Path) -> None:
    headers = {"x-earth-engine-quota-status": "parallelism_restricted=true"}
    faults = {"rules": [{"path": "value:compute", "headers": headers}]}
    with (
        fake_server(tmp_path, faults=faults) as server,
        connected(server.url),
        pytest.warns(UserWarning, match="restricted mode"),
    ):
        assert ee.Number(5).getInfo() == 5
