"""The HTTP side on its own: routes, error bodies, limits, gates, faults, latency and the request log."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from fakes.embedded import ask, fake_server, post
from fakes.engine import FakeEvaluator, constant, load
from PIL import Image

from m3etl.emulator.http_server import EmulatorServer
from m3etl.emulator.server import serve
from m3etl.errors import InputError

base = "/v1/projects/m3etl-embedded"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorServer]:
    with fake_server(tmp_path_factory.mktemp("state")) as running:
        yield running


def grid(width: int, height: int, column: int = 0, row: int = 0) -> dict[str, Any]:
    return {
        "dimensions": {"width": width, "height": height},
        "affineTransform": {
            "scaleX": 10,
            "translateX": 400_000 + 10 * column,
            "scaleY": -10,
            "translateY": 5_000_000 - 10 * row,
        },
        "crsCode": "EPSG:32632",
    }


def test_values_come_back(server: EmulatorServer) -> None:
    answer = post(server, "value:compute", {"expression": constant({"a": [1, "two", None]})})
    assert (answer.status, answer.json) == (200, {"result": {"a": [1, "two", None]}})
    assert answer.headers["content-type"].startswith("application/json")


def test_values_that_are_no_json_numbers_become_text(server: EmulatorServer) -> None:
    body = b'{"expression": {"result": "0", "values": {"0": {"constantValue": [NaN, -Infinity, 1.5]}}}}'
    assert post(server, "value:compute", body).json == {"result": ["NaN", "-Infinity", 1.5]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{not json", "Invalid JSON payload received."),
        (b"[1]", "Expected an object, found list."),
        (b"", "Invalid value at 'expression': required."),
        (b'{"expression": 3}', "Invalid value at 'expression': required."),
        (b"\xff\xfe", "Invalid JSON payload received."),
    ],
)
def test_a_body_that_is_no_request_is_a_400(server: EmulatorServer, body: bytes, said: str) -> None:
    answer = post(server, "value:compute", body)
    assert answer.status == 400
    assert answer.json["error"]["status"] == "INVALID_ARGUMENT"
    assert said in answer.message


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v1/nothing"), ("POST", f"{base}/nothing:compute"), ("PUT", f"{base}/value:compute")],
)
def test_an_unknown_route_is_a_404(server: EmulatorServer, method: str, path: str) -> None:
    answer = ask(server, method, path)
    assert answer.status == 404
    assert answer.json["error"]["status"] == "NOT_FOUND"
    assert path in answer.message


def test_a_method_of_the_service_that_is_not_emulated_says_so(server: EmulatorServer) -> None:
    answer = post(server, "video:export", {})
    assert (answer.status, answer.json["error"]["status"]) == (501, "UNIMPLEMENTED")
    assert "not served by the embedded Earth Engine" in answer.message


def test_an_internal_bug_is_a_500_and_is_logged(
    server: EmulatorServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = post(server, "value:compute", {"expression": constant("crash")})
    assert answer.status == 500
    assert answer.message.startswith("An internal error has occurred (request ")
    assert "KeyError" in caplog.text
    assert "Traceback" not in capfd.readouterr().err


def test_a_request_that_is_too_long_is_refused(server: EmulatorServer) -> None:
    answer = post(server, "value:compute", b" " * (10_485_760 + 1))
    assert (answer.status, answer.message) == (400, "Request payload size exceeds the limit: 10485760 bytes.")


def test_what_is_not_http_gets_the_error_body(server: EmulatorServer) -> None:
    with socket.create_connection(server.server_address[:2], timeout=10) as connection:
        connection.sendall(b"GET / HTTP/9.9 nonsense\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == 400


def test_connections_stay_open(server: EmulatorServer) -> None:
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), port, timeout=10)
    connection.connect()
    first = connection.sock
    for value in range(3):
        connection.request("POST", f"{base}/value:compute", body=json.dumps({"expression": constant(value)}))
        assert json.loads(connection.getresponse().read()) == {"result": value}
        assert connection.sock is first
    connection.close()


def test_npy_keeps_each_bands_dtype_and_the_grid(server: EmulatorServer) -> None:
    body = {"expression": load(8, 6), "fileFormat": "NPY", "grid": grid(4, 3, column=1, row=1)}
    answer = post(server, "image:computePixels", body)
    assert answer.headers["content-type"] == "application/octet-stream"
    table = np.load(io.BytesIO(answer.body))
    assert table.dtype.names == ("column", "row", "sum")
    assert [table.dtype[name] for name in table.dtype.names] == [np.uint16, np.uint16, np.float32]
    assert table.shape == (3, 4)
    assert table["column"][1].tolist() == [1, 2, 3, 4]
    assert table["row"][:, 1].tolist() == [1, 2, 3]
    assert table["column"][0, 0] == 0, "the masked pixel (1, 1)"


def test_geotiff_is_promoted_named_and_georeferenced(server: EmulatorServer) -> None:
    body = {"expression": load(8, 6), "fileFormat": "GEO_TIFF", "grid": grid(4, 3, column=1, row=1)}
    answer = post(server, "image:computePixels", body)
    with rasterio.MemoryFile(answer.body) as memory, memory.open() as source:
        assert source.dtypes == ("float32",) * 3
        assert source.descriptions == ("column", "row", "sum")
        assert source.crs.to_epsg() == 32632
        assert tuple(source.transform)[:6] == (10, 0, 400_010, 0, -10, 4_999_990)
        assert source.nodata == -np.inf
        values = source.read()
    assert values[2, 1].tolist() == [3, 4, 5, 6]
    assert values[0, 0, 0] == -np.inf


def test_integer_geotiff_masks_with_the_least_value(server: EmulatorServer) -> None:
    body = {"expression": load(8, 6), "fileFormat": "GEO_TIFF", "bandIds": ["row"], "grid": grid(3, 3)}
    with rasterio.MemoryFile(post(server, "image:computePixels", body).body) as memory, memory.open() as source:
        assert (source.count, source.dtypes, source.nodata) == (1, ("uint16",), 0)
        assert source.read(1)[:, 2].tolist() == [0, 1, 2]


def test_zipped_geotiffs(server: EmulatorServer) -> None:
    body = {"expression": load(8, 6), "filenamePrefix": "chip", "fileFormat": "ZIPPED_GEO_TIFF"}
    answer = post(server, "image:computePixels", body)
    assert 'filename="chip.zip"' in answer.headers["content-disposition"]
    assert zipfile.ZipFile(io.BytesIO(answer.body)).namelist() == ["chip.tif"]
    answer = post(server, "image:computePixels", body | {"fileFormat": "ZIPPED_GEO_TIFF_PER_BAND"})
    archive = zipfile.ZipFile(io.BytesIO(answer.body))
    assert archive.namelist() == ["chip.column.tif", "chip.row.tif", "chip.sum.tif"]
    with rasterio.MemoryFile(archive.read("chip.row.tif")) as memory, memory.open() as source:
        assert source.dtypes == ("uint16",)


def test_pictures(server: EmulatorServer) -> None:
    body = {"expression": load(8, 6), "fileFormat": "PNG", "visualizationOptions": {"ranges": [{"min": 0, "max": 9}]}}
    picture = Image.open(io.BytesIO(post(server, "image:computePixels", body).body))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (8, 6))
    assert picture.getpixel((1, 1))[3] == 0
    assert picture.getpixel((5, 2)) == (5, 2, 7, 255)
    picture = Image.open(io.BytesIO(post(server, "image:computePixels", body | {"fileFormat": "JPEG"}).body))
    assert (picture.format, picture.mode) == ("JPEG", "RGB")
    away = body | {"fileFormat": "AUTO_JPEG_PNG", "grid": grid(4, 4, column=2)}
    assert Image.open(io.BytesIO(post(server, "image:computePixels", away).body)).format == "JPEG"
    assert Image.open(io.BytesIO(post(server, "image:computePixels", body | {"fileFormat": ""}).body)).format == "PNG"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": grid(40_000, 10)}, "Pixel grid dimensions (40000x10) must be less than or equal to 32768."),
        ({"grid": grid(0, 10)}, "Pixel grid dimensions must be positive integers."),
        (
            {"grid": grid(4000, 4000)},
            "Total request size (176000000 bytes) must be less than or equal to 50331648 bytes.",
        ),
        ({"grid": {"dimensions": {"width": 1, "height": 1}}}, "Pixel grid must specify affineTransform"),
        ({"grid": grid(2, 2) | {"affineTransform": {"scaleX": 0, "scaleY": 1}}}, "not invertible"),
        (
            {"grid": grid(2, 2) | {"affineTransform": {"scaleX": "a"}}},
            "Invalid value at 'grid.affine_transform.scaleX'",
        ),
        ({"fileFormat": "TF_RECORD_IMAGE"}, "File format TF_RECORD_IMAGE is not served"),
        ({"bandIds": "row"}, "Invalid value at 'band_ids'"),
        ({"grid": grid(2, 2) | {"crsCode": "EPSG:999999"}, "fileFormat": "GEO_TIFF"}, "Unable to parse CRS"),
        ({"expression": constant(3)}, "Image asset '' not found"),
    ],
)
def test_pixel_requests_are_refused_with_the_services_words(
    server: EmulatorServer, change: dict[str, Any], said: str
) -> None:
    body = {"expression": load(8, 6), "fileFormat": "NPY", "grid": grid(2, 2)} | change
    answer = post(server, "image:computePixels", body)
    assert answer.status == 400
    assert said in answer.message


def test_the_size_limit_counts_a_mask_byte_per_sample(tmp_path: Path) -> None:
    # 11 bytes per pixel: 2 x (2 + 1) + (4 + 1). 2138 x 2140 pixels are 50,328,520 bytes, one more row is too many.
    evaluator = FakeEvaluator()
    with fake_server(tmp_path, evaluator) as server:
        body = {"expression": load(8, 6), "fileFormat": "NPY", "grid": grid(2140, 2138)}
        assert post(server, "image:computePixels", body).status == 200
        assert evaluator.calls == ["pixels"]
        answer = post(server, "image:computePixels", body | {"grid": grid(2140, 2139)})
        assert answer.message == "Total request size (50352060 bytes) must be less than or equal to 50331648 bytes."
        assert evaluator.calls == ["pixels"], "refused before anything was computed"


def test_thumbnails_are_made_once_and_fetched_by_anyone(server: EmulatorServer) -> None:
    body = {"expression": load(8, 6), "fileFormat": "NPY", "bandIds": ["sum"], "filenamePrefix": None}
    answer = post(server, "thumbnails?fields=name", body)
    assert list(answer.json) == ["name"]
    for _ in range(2):
        table = np.load(io.BytesIO(ask(server, "GET", f"/v1/{answer.json['name']}:getPixels").body))
        assert (table.dtype.names, table.shape) == (("sum",), (6, 8))
    assert ask(server, "GET", f"{base}/thumbnails/00-00:getPixels").status == 404


def test_thumbnails_that_are_too_large_are_refused_when_made(server: EmulatorServer) -> None:
    answer = post(server, "thumbnails", {"expression": load(40_000, 2), "fileFormat": "NPY"})
    assert answer.message == "Pixel grid dimensions (40000x2) must be less than or equal to 32768."


def test_map_tiles(server: EmulatorServer) -> None:
    name = post(server, "maps", {"expression": load(8, 6), "fileFormat": "PNG", "bandIds": ["row"]}).json["name"]
    picture = Image.open(io.BytesIO(ask(server, "GET", f"/v1/{name}/tiles/3/4/2").body))
    assert picture.size == (256, 256)
    assert ask(server, "GET", f"/v1/{name}/tiles/99/0/0").status == 400


def test_features_come_in_pages(tmp_path: Path) -> None:
    evaluator = FakeEvaluator()
    with fake_server(tmp_path, evaluator) as server:
        body: dict[str, Any] = {"expression": constant(25), "pageSize": 10}
        found, pages = [], 0
        while True:
            answer = post(server, "table:computeFeatures", body).json
            assert answer["type"] == "FeatureCollection"
            found += [feature["properties"]["number"] for feature in answer["features"]]
            pages += 1
            if "nextPageToken" not in answer:
                break
            body["pageToken"] = answer["nextPageToken"]
        assert (found, pages) == (list(range(25)), 3)
        assert evaluator.calls == ["features"], "the pages of one computation are computed once"
        assert post(server, "table:computeFeatures", body | {"pageToken": "?"}).status == 400
        images = post(server, "imageCollection:computeImages", {"expression": constant(3), "pageSize": 2}).json
        assert ([image["id"] for image in images["images"]], "nextPageToken" in images) == (["fake/0", "fake/1"], True)


def test_tables_download_as_csv_geojson_and_kml(server: EmulatorServer) -> None:
    def download(**body: Any) -> tuple[bytes, dict[str, str]]:
        name = post(server, "tables?fields=name", {"expression": constant(2), "filename": "t", **body}).json["name"]
        answer = ask(server, "GET", f"/v1/{name}:getFeatures")
        return answer.body, answer.headers

    data, headers = download(fileFormat="CSV")
    assert 'filename="t.csv"' in headers["content-disposition"]
    assert data.decode().splitlines()[:2] == [
        "system:index,label,number,.geo",
        '0,n0,0,"{""type"":""Point"",""coordinates"":[0,45]}"',
    ]
    data, _ = download(fileFormat="CSV", selectors=["number"])
    assert data == b"number\n0\n1\n"
    data, _ = download(fileFormat="GEO_JSON", selectors=["label", ".geo"])
    assert json.loads(data)["features"][1]["properties"] == {"label": "n1"}
    data, _ = download(fileFormat="KML")
    assert data.count(b"<Placemark>") == 2
    assert b"<coordinates>1,45</coordinates>" in data
    assert post(server, "tables", {"expression": constant(2), "fileFormat": "SHP"}).status == 400


def test_the_profile_of_a_request_can_be_asked_for(server: EmulatorServer) -> None:
    body = {"expression": load(8, 6), "fileFormat": "NPY"}
    answer = post(server, "image:computePixels", body, {"X-Earth-Engine-Computation-Profiling": "1"})
    identifier = answer.headers["x-earth-engine-computation-profile"]
    assert "x-earth-engine-computation-profile" not in post(server, "image:computePixels", body).headers

    def profiles(**arguments: Any) -> Any:
        named = {key: {"constantValue": value} for key, value in arguments.items()}
        node = {"functionInvocationValue": {"functionName": "Profile.getProfiles", "arguments": named}}
        return post(server, "value:compute", {"expression": {"result": "0", "values": {"0": node}}}).json["result"]

    assert "EECU" in profiles(ids=[identifier])
    assert "image:computePixels" in profiles(ids=[identifier])
    entry = json.loads(profiles(ids=[identifier], format="json"))["profiles"][0]
    assert entry["eecuSeconds"] > 0
    assert entry["peakMemoryBytes"] == 8 * 6 * 8


def test_many_requests_are_served_at_once_and_evaluated_few_at_a_time(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(seconds=0.002)
    log = tmp_path / "log.jsonl"
    with fake_server(tmp_path, evaluator, log=log) as server:
        statuses: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: statuses.append(post(server, "value:compute", {"expression": constant(1)}).status)
            )
            for _ in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 40
    assert evaluator.most_at_once <= 2
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(entries) == 40
    assert max(entry["in_flight"] for entry in entries) > 2


def test_the_concurrency_gate_answers_429(tmp_path: Path) -> None:
    evaluator = FakeEvaluator()
    evaluator.released.clear()
    with fake_server(tmp_path, evaluator, faults={"gates": {"concurrency": 1}}) as server:
        first = threading.Thread(target=post, args=(server, "value:compute", {"expression": constant(1)}))
        first.start()
        while not evaluator.calls:
            time.sleep(0.001)
        answer = post(server, "value:compute", {"expression": constant(2)})
        evaluator.released.set()
        first.join()
        assert (answer.status, answer.json["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert answer.message.startswith("Too Many Requests: Request was rejected because the request rate")
        assert post(server, "value:compute", {"expression": constant(2)}).status == 200


def test_the_rate_gate_answers_429(tmp_path: Path) -> None:
    with fake_server(tmp_path, faults={"gates": {"rate_per_s": 3}}) as server:
        statuses = [post(server, "value:compute", {"expression": constant(1)}).status for _ in range(8)]
    assert statuses[:3] == [200] * 3
    assert 429 in statuses[3:]


def test_scripted_answers(tmp_path: Path) -> None:
    rules = [
        {"path": "value:compute", "calls": {"nth": 1}, "status": 429, "headers": {"Retry-After": "7"}},
        {"path": "value:compute", "calls": {"nth": 2}, "status": 503, "message": "Busy."},
        {"path": "value:compute", "calls": {"nth": 3}, "html": "<html>Sorry</html>"},
        {"path": "value:compute", "calls": {"nth": 4}, "status": 504, "body": "plain"},
        {"path": "value:compute", "calls": {"nth": 5}, "headers": {"x-earth-engine-quota-status": "a=b"}},
    ]
    evaluator = FakeEvaluator()
    log = tmp_path / "log.jsonl"
    with fake_server(tmp_path, evaluator, faults={"rules": rules}, log=log) as server:
        answers = [post(server, "value:compute", {"expression": constant(1)}) for _ in range(6)]
    assert [answer.status for answer in answers] == [429, 503, 200, 504, 200, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert "concurrency limit was exceeded" in answers[0].message
    assert answers[1].json["error"] == {"code": 503, "message": "Busy.", "status": "UNAVAILABLE"}
    assert (answers[2].body, answers[2].headers["content-type"]) == (b"<html>Sorry</html>", "text/html; charset=UTF-8")
    assert answers[3].body == b"plain"
    assert answers[4].headers["x-earth-engine-quota-status"] == "a=b"
    assert len(evaluator.calls) == 2
    assert [json.loads(line).get("fault") for line in log.read_text().splitlines()] == [0, 1, 2, 3, 4, None]


def test_dropped_and_truncated_connections(tmp_path: Path) -> None:
    rules = [
        {"path": "value:compute", "calls": {"nth": 1}, "drop": True},
        {"path": "value:compute", "calls": {"nth": 2}, "drop": "after"},
        {"path": "value:compute", "calls": {"nth": 3}, "truncate": True},
        {"path": "value:compute", "calls": {"nth": 4}, "truncate": 3},
    ]
    evaluator = FakeEvaluator()
    with fake_server(tmp_path, evaluator, faults={"rules": rules}) as server:
        body = {"expression": constant("x" * 1000)}
        with pytest.raises(ConnectionError):
            post(server, "value:compute", body)
        assert evaluator.calls == []
        with pytest.raises(ConnectionError):
            post(server, "value:compute", body)
        assert evaluator.calls == ["value"]
        with pytest.raises(http.client.IncompleteRead) as half:
            post(server, "value:compute", body)
        assert 400 < len(half.value.partial) < 600
        with pytest.raises(http.client.IncompleteRead) as three:
            post(server, "value:compute", body)
        assert len(three.value.partial) == 3
        assert post(server, "value:compute", body).status == 200


def test_pixels_can_come_whole_and_wrong(tmp_path: Path) -> None:
    alterations = [
        {"set": {"col*": 9, "sum": -1}},
        {"dtype": "float64"},
        {"rows": 2},
        {"length": 40},
        {"swap": True},
    ]
    rules = [
        {"path": "computePixels", "calls": {"nth": number + 2}, "alter": alteration}
        for number, alteration in enumerate(alterations)
    ]
    log = tmp_path / "log.jsonl"
    with fake_server(tmp_path, faults={"rules": rules}, log=log) as server:
        bodies = []
        for row in range(7):
            asked = {"expression": load(9, 9), "fileFormat": "NPY", "grid": grid(4, 3, row=row)}
            bodies.append(post(server, "image:computePixels", asked).body)
    whole, constant_pixels, typed, shorter = (np.load(io.BytesIO(body)) for body in bodies[:4])
    assert (constant_pixels["column"] == 9).all()
    assert (constant_pixels["sum"] == -1).all()
    assert (constant_pixels["row"][:, 0] == whole["row"][:, 0] + 1).all()
    assert {str(typed.dtype[name]) for name in typed.dtype.names} == {"float64"}
    assert shorter.shape == (2, 4)
    assert len(bodies[4]) == 40
    assert np.load(io.BytesIO(bodies[5]))["row"][0, 0] == 4, "the answer to the request before"
    assert np.load(io.BytesIO(bodies[6]))["row"][0, 0] == 6
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("fault") for line in lines] == [None, 0, 1, 2, 3, 4, None]
    assert len({line["digest"] for line in lines}) == 7


def test_the_log_tells_a_repeated_request(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with fake_server(tmp_path, log=log) as server:
        for value in (1, 2, 1):
            post(server, "value:compute", {"expression": constant(value)})
    first, second, again = (json.loads(line)["digest"] for line in log.read_text().splitlines())
    assert first == again != second


def test_latency_is_the_least_time_of_a_request(tmp_path: Path) -> None:
    plan = {
        "latency": {"base_ms": 40, "per_band_ms": 20},
        "rules": [{"path": "algorithms", "delay_ms": 30, "status": 500}],
    }
    with fake_server(tmp_path, faults=plan) as server:

        def seconds(method: str, body: Any) -> float:
            started = time.monotonic()
            post(server, method, body)
            return time.monotonic() - started

        assert seconds("value:compute", {"expression": constant(1)}) >= 0.04
        assert seconds("image:computePixels", {"expression": load(4, 4), "fileFormat": "NPY"}) >= 0.1


def test_every_request_is_one_line_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.jsonl"
    with fake_server(tmp_path, log=log) as server:
        answer = post(server, "image:computePixels", {"expression": load(4, 4), "fileFormat": "NPY"})
        ask(server, "GET", "/v1/nothing?secret=1")
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert first["time"].endswith("Z")
    assert (first["method"], first["path"], first["status"]) == ("POST", f"{base}/image:computePixels", 200)
    assert (first["bytes"], first["in_flight"], first["bands"]) == (len(answer.body), 1, 3)
    assert 0 < first["eecu_s"] <= first["seconds"] + 0.05
    assert (second["path"], second["status"]) == ("/v1/nothing", 404)


def test_a_computation_has_five_minutes(tmp_path: Path) -> None:
    from m3etl.emulator.model import ServiceError
    from m3etl.emulator.work import Workers

    workers = Workers(1, limit_s=0.02)
    with pytest.raises(ServiceError, match="Computation timed out") as caught:
        workers.run(lambda: time.sleep(0.1))
    assert caught.value.code == 400
    assert workers.run(lambda: 5, limit_s=5.0) == 5, "waiting in line does not count"


def test_work_whose_client_has_gone_is_not_begun(tmp_path: Path) -> None:
    log, release = tmp_path / "log.jsonl", threading.Event()
    body = json.dumps({"expression": constant(1)}).encode()
    with fake_server(tmp_path, log=log) as server:
        busy = [threading.Thread(target=server.service.workers.run, args=(release.wait,)) for _ in range(64)]
        for thread in busy:
            thread.start()
        gone, patient = (http.client.HTTPConnection(*server.server_address[:2], timeout=30) for _ in range(2))
        with closing(gone), closing(patient):
            for connection in (gone, patient):
                connection.request("POST", f"{base}/value:compute", body)
            gone.close()
            deadline = time.monotonic() + 20
            while not log.read_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            release.set()
            with patient.getresponse() as answer:
                assert answer.status == 200
        for thread in busy:
            thread.join()
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [499, 200]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"host": "0.0.0.0"}, "cannot listen on '0.0.0.0'"),
        ({"host": "example.org"}, "cannot listen on"),
        ({"port": 70_000}, "Cannot listen on 127.0.0.1:70000"),
        ({"latency_ms": -1.0}, "must not be negative"),
        ({"faults": Path("none.json")}, "Cannot read the faults file"),
        ({"state_dir": Path("/dev/null/state")}, "Cannot use the state directory"),
        ({"log": Path("/dev/null/log")}, "Cannot write the request log"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        serve(**arguments)


def test_config_of_the_project(server: EmulatorServer) -> None:
    assert ask(server, "GET", f"{base}/config").json["maxConcurrentExports"] == 2
    assert ask(server, "PATCH", f"{base}/config", {"maxConcurrentExports": 0}).status == 400
    assert ask(server, "PATCH", f"{base}/config", {"maxConcurrentExports": 3}).json["maxConcurrentExports"] == 3
