"""Buckets through the real obstore and GDAL, against the embedded Earth Engine's storage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from fakes.embedded import fake_server

from m3etl.compute.grids import PixelWindow
from m3etl.errors import AuthenticationError, InputError, RemoteError
from m3etl.io.objects import BucketPlace, StoredObject, open_bucket, parse_bucket
from m3etl.io.rasters import describe_raster, read_windows

refusals = [
    {"path": "/denied-bucket", "status": 403},
    {"path": "/gone-bucket", "status": 404, "message": "The specified bucket does not exist."},
    {"path": "/expired-login", "status": 401},
    {"path": "/broken-bucket", "status": 503},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    with fake_server(state, faults={"rules": refusals}, log=state / "log.jsonl") as running:
        running.state = state
        yield running


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def bucket_of(server, text, deadline_s=20.0):
    session = SimpleNamespace(url=server.url, local=True)
    return open_bucket(parse_bucket(text), session, deadline_s=deadline_s)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("gs://a-bucket", BucketPlace(name="a-bucket")),
        ("gs://a-bucket/", BucketPlace(name="a-bucket")),
        ("gs://a.bucket/some/where", BucketPlace(name="a.bucket", prefix="some/where/")),
        ("a-bucket/x/", BucketPlace(name="a-bucket", prefix="x/")),
    ],
)
def test_places_are_written_as_addresses(text, place):
    assert parse_bucket(text) == place
    assert parse_bucket(place.url) == place


@pytest.mark.parametrize("text", ["", "gs://", "gs://A", "gs://ab", "s3://a-bucket", "gs://a-bucket/../x", "gs://a b"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(InputError, match="no place in Cloud Storage"):
        parse_bucket(text)


def test_objects_are_written_listed_and_deleted(server):
    bucket = bucket_of(server, "gs://my-bucket/pre fix")
    assert bucket.objects("deep") == []
    bucket.write("deep/b.json", b"{}")
    bucket.write("deep/a b+c.json", b"123")
    bucket.write("deeper/x.json", b"{}")
    found = bucket.objects("deep")
    assert found == [
        StoredObject(name="pre fix/deep/a b+c.json", nbytes=3),
        StoredObject(name="pre fix/deep/b.json", nbytes=2),
    ]
    bucket.delete([*(item.name for item in found), "pre fix/deep/never.json"])
    assert bucket.objects("deep") == []
    assert len(bucket.objects("deeper")) == 1


def test_windows_are_read_without_the_rest_of_the_file(server):
    path = Path(server.state) / "buckets" / "my-bucket" / "exports" / "large one.tif"
    path.parent.mkdir(parents=True)
    values = np.random.default_rng(1).integers(0, 60_000, (2, 2048, 2048), dtype=np.uint16)
    transform = rasterio.Affine(10, 0, 512_000, 0, -10, 5_000_000)
    profile = {"driver": "COG", "blocksize": 256, "compress": "LZW", "crs": "EPSG:32632", "transform": transform}
    with rasterio.open(path, "w", width=2048, height=2048, count=2, dtype="uint16", **profile) as target:
        target.write(values)
    bucket = bucket_of(server, "gs://my-bucket/exports")
    (item,) = bucket.objects("")
    assert item.nbytes == path.stat().st_size
    raster = describe_raster(bucket.location(item.name), options=bucket.reading_options())
    windows = [PixelWindow(column=1000, row=row, width=128, height=128) for row in (256, 384)]
    for window, found in zip(windows, read_windows([raster], windows), strict=True):
        np.testing.assert_array_equal(found.values, values[:, window.row : window.row + 128, 1000:1128])
    log = (Path(server.state) / "log.jsonl").read_text().splitlines()
    sent = sum(int(line.split('"bytes":')[1].split(",")[0]) for line in log if "large one" in line and "GET" in line)
    assert 0 < sent < item.nbytes / 4


@pytest.mark.parametrize("action", ["write", "objects"])
@pytest.mark.parametrize(
    ("name", "error", "text", "code"),
    [
        ("gone-bucket", InputError, "there is no bucket gs://gone-bucket", 2),
        ("denied-bucket", RemoteError, "no permission", 4),
        ("expired-login", AuthenticationError, "login for Cloud Storage was rejected", 4),
        ("broken-bucket", RemoteError, "cannot", 4),
    ],
)
def test_refusals_say_what_to_do(server, action, name, error, text, code):
    bucket = bucket_of(server, name, deadline_s=1.0)
    with pytest.raises(error, match=text) as caught:
        bucket.write("x", b"1") if action == "write" else bucket.objects("x")
    assert type(caught.value) is error
    assert caught.value.exit_code == code
    assert caught.value.hint
    assert "Debug source" not in caught.value.message
