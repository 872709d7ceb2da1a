"""Exported files as Cloud Storage objects, read by Google's client, by ranges, by XML and by GDAL."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import obstore
import pytest
import rasterio
from fakes.embedded import ask, fake_server
from obstore.store import GCSStore

from m3etl.emulator.http_server import EmulatorServer

with warnings.catch_warnings():
    # Google's library wants grpcio-status for messages of calls that nothing here makes.
    warnings.filterwarnings("ignore", "Please install grpcio-status", ImportWarning)
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

names = ["a.tif", "deep/b.tif", "deep/c d+e%.csv", "deep/er/f.tif", "z"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorServer]:
    state = tmp_path_factory.mktemp("state")
    for name in names:
        path = state / "buckets" / "my-bucket" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode() * 100)
    (state / "buckets" / "my-bucket" / ".half.tif.1-2.partial").write_bytes(b"not there yet")
    (state / "secret").write_text("secret")
    with fake_server(state) as running:
        yield running


@pytest.fixture
def bucket(server: EmulatorServer) -> Iterator[storage.Bucket]:
    with storage.Client(
        project="m3etl-embedded", credentials=AnonymousCredentials(), client_options={"api_endpoint": server.url}
    ) as client:
        yield client.bucket("my-bucket")


def test_the_google_client_lists_and_reads(bucket: storage.Bucket) -> None:
    assert bucket.exists()
    assert [blob.name for blob in bucket.list_blobs()] == names
    assert [blob.name for blob in bucket.list_blobs(prefix="deep/", page_size=1)] == names[1:4]
    page = bucket.list_blobs(prefix="deep/", delimiter="/")
    assert [blob.name for blob in page] == names[1:3]
    assert page.prefixes == {"deep/er/"}
    blob = bucket.get_blob("deep/c d+e%.csv")
    assert (blob.size, blob.content_type) == (2600, "text/csv")
    assert blob.download_as_bytes() == b"content of deep/c d+e%.csv" * 100
    assert blob.download_as_bytes(start=3, end=9) == b"tent of"
    assert bucket.get_blob("none") is None


def test_the_google_client_deletes(tmp_path: Path) -> None:
    path = tmp_path / "buckets" / "my-bucket" / "x"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with fake_server(tmp_path) as server:
        answer = ask(server, "DELETE", "/storage/v1/b/my-bucket/o/x")
        assert (answer.status, answer.body) == (204, b"")
        assert not path.exists()
        assert ask(server, "DELETE", "/storage/v1/b/my-bucket/o/x").status == 404


def test_small_objects_are_put_and_deleted_by_their_address(tmp_path: Path) -> None:
    with fake_server(tmp_path) as server:
        assert ask(server, "PUT", "/new-bucket/a/b.json", b"one").status == 200
        assert ask(server, "PUT", "/new-bucket/a/b.json", b"two").status == 200
        assert ask(server, "GET", "/new-bucket/a/b.json").body == b"two"
        assert [path.name for path in (tmp_path / "buckets" / "new-bucket" / "a").iterdir()] == ["b.json"]
        assert ask(server, "PUT", "/new-bucket/a/../../../x", b"no").status == 400
        assert not (tmp_path / "x").exists()
        assert ask(server, "DELETE", "/new-bucket/a/b.json").status == 204
        assert ask(server, "DELETE", "/new-bucket/a/b.json").status == 404


def test_obstore_lists_puts_reads_ranges_and_deletes(tmp_path: Path) -> None:
    with fake_server(tmp_path) as server:
        store = GCSStore("some-bucket", base_url=server.url, bearer_token="any", client_options={"allow_http": True})
        assert list(obstore.list(store)) == []
        for name in ("x/1.tif", "x/2 +%.tif", "y.tif"):
            obstore.put(store, name, f"content of {name}".encode(), use_multipart=False)
        assert [item["path"] for page in obstore.list(store, prefix="x") for item in page] == ["x/1.tif", "x/2 +%.tif"]
        assert bytes(obstore.get_range(store, "x/2 +%.tif", start=3, length=4)) == b"tent"
        assert [bytes(item) for item in obstore.get_ranges(store, "y.tif", starts=[0, 8], lengths=[3, 2])] == [
            b"con",
            b"of",
        ]
        assert obstore.head(store, "y.tif")["size"] == len("content of y.tif")
        obstore.delete(store, ["x/1.tif", "y.tif"])
        assert [item["path"] for page in obstore.list(store) for item in page] == ["x/2 +%.tif"]
        with pytest.raises(FileNotFoundError):
            obstore.get(store, "y.tif")


@pytest.mark.parametrize(
    ("header", "status", "content", "span"),
    [
        (None, 200, b"content of z" * 100, None),
        ("bytes=0-4", 206, b"conte", "bytes 0-4/1200"),
        ("bytes=1195-", 206, b" of z", "bytes 1195-1199/1200"),
        ("bytes=1195-5000", 206, b" of z", "bytes 1195-1199/1200"),
        ("bytes=-2", 206, b" z", "bytes 1198-1199/1200"),
        ("bytes=1200-", 416, b"", "bytes */1200"),
        ("lines=1-2", 200, b"content of z" * 100, None),
    ],
)
def test_ranges(server: EmulatorServer, header: str | None, status: int, content: bytes, span: str | None) -> None:
    for path in (
        "/my-bucket/z",
        "/storage/v1/b/my-bucket/o/z?alt=media",
        "/download/storage/v1/b/my-bucket/o/z?alt=media",
    ):
        answer = ask(server, "GET", path, headers={"Range": header} if header else None)
        assert (answer.status, answer.body, answer.headers.get("content-range")) == (status, content, span)


def test_head_tells_the_size_without_content(server: EmulatorServer) -> None:
    answer = ask(server, "HEAD", "/my-bucket/deep/c%20d%2Be%25.csv")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "2600", b"")
    assert ask(server, "HEAD", "/my-bucket/none").status == 404


def test_xml_listing(server: EmulatorServer) -> None:
    space = "{http://doc.s3.amazonaws.com/2006-03-01}"
    found, token = [], ""
    while True:
        query = f"list-type=2&max-keys=2{f'&continuation-token={token}' if token else ''}"
        page = ElementTree.fromstring(ask(server, "GET", f"/my-bucket?{query}").body)
        found += [item.text for item in page.iter(f"{space}Key")]
        token = page.findtext(f"{space}NextContinuationToken") or ""
        if not token:
            break
    assert found == names
    page = ElementTree.fromstring(ask(server, "GET", "/my-bucket?list-type=2&delimiter=/").body)
    assert [item.text for item in page.iter(f"{space}Key")] == ["a.tif", "z"]
    assert page.findtext(f"{space}CommonPrefixes/{space}Prefix") == "deep/"


@pytest.mark.parametrize(
    "path",
    [
        "/my-bucket/../secret",
        "/my-bucket/..%2Fsecret",
        "/storage/v1/b/my-bucket/o/..%2F..%2Fsecret?alt=media",
        "/../secret",
    ],
)
def test_nothing_outside_the_buckets_is_served(server: EmulatorServer, path: str) -> None:
    answer = ask(server, "GET", path)
    assert answer.status == 404
    assert b"secret" not in answer.body.replace(b"/secret", b"")


def test_a_bucket_name_must_be_one(server: EmulatorServer) -> None:
    assert ask(server, "GET", "/storage/v1/b/A").status == 400
    assert ask(server, "GET", "/storage/v1/b/not-yet/o").json == {"kind": "storage#objects"}
    assert ask(server, "POST", "/storage/v1/b/my-bucket/o/z", {}).status == 501


def test_gdal_reads_windows(tmp_path: Path) -> None:
    path = tmp_path / "buckets" / "my-bucket" / "image.tif"
    path.parent.mkdir(parents=True)
    values = np.arange(512 * 512, dtype=np.uint32).reshape(1, 512, 512)
    profile = {"driver": "GTiff", "width": 512, "height": 512, "count": 1, "dtype": "uint32", "tiled": True}
    transform = rasterio.Affine(10, 0, 0, 0, -10, 0)
    with rasterio.open(path, "w", **profile, crs="EPSG:32632", transform=transform) as target:
        target.write(values)
    with (
        fake_server(tmp_path) as server,
        rasterio.Env(GDAL_HTTP_PROXY="", NO_PROXY="127.0.0.1", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.open(f"/vsicurl/{server.url}/my-bucket/image.tif") as source,
    ):
        window = source.read(1, window=rasterio.windows.Window(300, 400, 5, 4))
    np.testing.assert_array_equal(window, values[0, 400:404, 300:305])
