"""S1-GUNW products in both layouts, from disk and over HTTP with ranges, redirects and a login."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from m3etl.compute.grids import chip_grid
from m3etl.errors import InputError, RemoteError
from m3etl.io.gunw import choose_pairs, open_gunw, parse_name
from m3etl.io.gunwsource import ProductReader, chip_polygon, choose_products, find_products
from m3etl.io.ranges import open_ranges
from tests.fakes.gunw import Made, names, offsets, ramp, write_product

chip_degrees = 4480 / 111_320
made = Made()


def around(lon: float, lat: float) -> tuple[float, float, float, float]:
    half = chip_degrees / 2
    return lon - 1.5 * half, lat - half, lon + 1.5 * half, lat + half


@pytest.mark.parametrize("version", [2, 3])
def test_a_known_ramp_comes_back_referenced_by_component(tmp_path: Path, version: int) -> None:
    path = write_product(tmp_path, made, version=version)
    with open_gunw(str(path)) as product:
        patch = product.read(around(12.1, 47.9), elevation_m=1500.0)
    assert patch is not None
    assert patch.corrections == (() if version == 2 else ("ionosphere", "solid earth tide", "troposphere HRRR"))
    first = np.searchsorted(-made.latitude, -patch.latitude[0]), np.searchsorted(made.longitude, patch.longitude[0])
    window = tuple(slice(start, start + size) for start, size in zip(first, patch.phase.shape, strict=True))
    truth, component = made.ramp()[window], made.component()[window]
    assert set(np.unique(component)) == {0.0, 1.0, 2.0}
    assert np.isnan(patch.phase[component == 0]).all(), "the gap between the components"
    for label in offsets:
        members = component == label
        difference = patch.phase[members] - truth[members]
        assert np.ptp(difference) < 2e-3, "one constant a component"
        assert abs(np.median(patch.phase[members])) < 2e-3
    incidence = np.broadcast_to(38 + 2 * (patch.longitude - 12), patch.phase.shape)
    np.testing.assert_allclose(patch.geometry["incidenceAngle"], incidence, atol=1e-4)
    np.testing.assert_allclose(patch.geometry["perpendicularBaseline"], 65.0, atol=1e-3)
    assert ((patch.coherence > 0) | np.isnan(patch.coherence)).all()


def test_a_window_half_outside_and_one_outside(tmp_path: Path) -> None:
    path = write_product(tmp_path, made)
    with open_gunw(str(path)) as product:
        half = product.read(around(12.0, 48.0))
        assert half is not None
        assert half.latitude.max() < 48.0
        assert half.longitude.min() > 12.0
        assert product.read(around(30.0, 10.0)) is None
        assert product.footprint.bounds == pytest.approx((12.0, 47.8, 12.2, 48.0))


def test_names_give_dates_and_days_beyond_a_byte() -> None:
    pair = parse_name(names[3])
    assert (pair.direction, pair.track, pair.days, pair.version) == ("D", 64, 12, (3, 0, 1))
    assert f"{pair.reference:%Y-%m-%d %H:%M:%S}" == "2020-01-12 01:50:40"
    long = parse_name("S1-GUNW-A-R-064-tops-20201230_20200105-015040-34441N_32227N-PP-0abc-v2_0_2.nc")
    assert long.days == 360, "uint8 would have wrapped to 104"
    assert parse_name(f"https://host/x/{names[2]}?sig=abc").name == names[2].removesuffix(".nc")
    with pytest.raises(InputError, match="not the name"):
        parse_name("S1-GUNW-elsewhere.nc")


def test_pairs_are_sorted_by_days_and_repeated_ones_left_out() -> None:
    listed = [
        "S1-GUNW-D-R-064-tops-20200218_20191231-015040-00012E_00047N-PP-9c1d-v2_0_6.nc",
        names[2],
        names[3],
        "S1-GUNW-D-R-064-tops-20200112_20191231-015105-00012E_00048N-PP-77aa-v2_0_6.nc",  # the next frame
    ]
    chosen = choose_pairs([parse_name(name) for name in listed])
    assert [(pair.days, pair.version) for pair in chosen] == [(12, (3, 0, 1)), (49, (2, 0, 6))]
    assert [pair.days for pair in choose_pairs([parse_name(name) for name in listed], least_days=20)] == [49]


class _Archive(BaseHTTPRequestHandler):
    """Answers like the archive: a login, a redirect to another address with a signature, then ranges."""

    protocol_version = "HTTP/1.1"
    folder: Path
    served = 0
    seen: list[tuple[str, str]] = []  # noqa: RUF012 - reset by the fixture

    def do_GET(self) -> None:
        type(self).seen.append((self.path, self.headers.get("Authorization", "")))
        if self.path.startswith("/data/"):
            if "asf-urs=in" not in self.headers.get("Cookie", ""):
                port = self.server.server_address[1]
                state = self.path.split("/")[-1]
                return self._answer(
                    302, b"", {"Location": f"http://localhost:{port}/oauth?client_id=asf&state={state}"}
                )
            return self._answer(302, b"", {"Location": self.path.replace("/data/", "/bucket/") + "?signature=s3cret"})
        if self.path.startswith("/oauth"):
            if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"user:secret").decode():
                return self._answer(401, b"login")
            state = self.path.partition("state=")[2]
            port = self.server.server_address[1]
            return self._answer(302, b"", {"Location": f"http://127.0.0.1:{port}/login?code=1&state={state}"})
        if self.path.startswith("/login"):
            state = self.path.partition("state=")[2]
            return self._answer(302, b"", {"Location": f"/data/{state}", "Set-Cookie": "asf-urs=in; Path=/"})
        if self.path.startswith("/door/"):
            if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"user:secret").decode():
                return self._answer(401, b"login")
            return self._answer(302, b"", {"Location": self.path.replace("/door/", "/bucket/") + "?signature=s3cret"})
        content = (self.folder / self.path.split("/")[-1].split("?")[0]).read_bytes()
        first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        piece = content[first : last + 1]
        type(self).served += len(piece)
        spread = f"bytes {first}-{first + len(piece) - 1}/{len(content)}"
        return self._answer(206, piece, {"Content-Range": spread})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[str]:
    _Archive.folder, _Archive.served, _Archive.seen = tmp_path, 0, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Archive)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("login")
def test_one_chip_costs_a_small_part_of_the_file(tmp_path: Path, archive: str) -> None:
    large = Made(side=1500)
    path = write_product(tmp_path, large)
    with open_gunw(str(path)) as product:
        local = product.read(around(12.6, 47.4))
    with open_gunw(f"{archive}/door/{path.name}") as product:
        remote = product.read(around(12.6, 47.4))
    assert local is not None
    assert remote is not None
    np.testing.assert_array_equal(remote.phase, local.phase)
    assert _Archive.served < 0.1 * path.stat().st_size
    doors = [entry for entry in _Archive.seen if entry[0].startswith("/door/")]
    assert 1 <= len(doors) <= 2, "the redirect is remembered"


@pytest.mark.parametrize("version", [2, 3])
def test_both_layouts_behind_an_earthdata_login(
    tmp_path: Path, archive: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the archive: the data address sends to the login's host, which knows the password, back with a code and a
    cookie, and on to a signed address that serves ranges.
    """
    (tmp_path / "netrc").write_text("machine localhost login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    large = Made(side=1500, gap=600)  # 15 MB; those of the archive have about 50
    path = write_product(tmp_path, large, version=version)
    west, south, east, north = around(12.5, 47.5)
    with open_gunw(f"{archive}/data/{path.name}") as product:
        patch = product.read((west, south, east, north), elevation_m=1500.0)
    assert patch is not None
    assert _Archive.served < 0.1 * path.stat().st_size, "of one chip of 4480 m at native resolution"
    assert patch.corrections == (() if version == 2 else ("ionosphere", "solid earth tide", "troposphere HRRR"))
    lat, lon = np.meshgrid(patch.latitude, patch.longitude, indexing="ij")
    truth = ramp[0] * lon + ramp[1] * lat
    labels = np.unique(patch.component[np.isfinite(patch.component)])
    assert labels.tolist() == [1.0, 2.0], "the window lies across both components"
    for label in labels:
        members = patch.component == label
        assert np.ptp((patch.phase - truth)[members]) < 2e-3
        assert abs(np.median(patch.phase[members])) < 2e-3
    paths = [path for path, _ in _Archive.seen]
    assert [part.split("?")[0].split("/")[1] for part in paths[:5]] == ["data", "oauth", "login", "data", "bucket"]
    assert all(part.startswith("/bucket/") for part in paths[5:]), "one login, then the signed address"
    assert all(header == "" for part, header in _Archive.seen if not part.startswith("/oauth")), "no password elsewhere"


@pytest.mark.usefixtures("login")
def test_a_chip_from_a_list_of_addresses_costs_as_little(tmp_path: Path, archive: str) -> None:
    path = write_product(tmp_path, Made(side=1500))
    (tmp_path / "list.txt").write_text(f"{archive}/door/{path.name}\n")
    grid = chip_grid(epsg=32633, xmin=320_000.0, ymax=5_254_480.0, chip_m=4480.0, pixels=48)
    outline = chip_polygon(grid)
    with contextlib.closing(ProductReader()) as reader:
        (chosen,) = choose_products(find_products(str(tmp_path / "list.txt")).near(outline), outline, None)
        read = reader.read(chosen, grid, elevation_m=0.0)
    assert read is not None
    assert np.isfinite(read.pixels.phase).mean() > 0.99
    assert read.features[:2] == pytest.approx((12.0, 50.0))
    assert _Archive.served < 0.1 * path.stat().st_size, "footprint and pixels together"


def test_without_a_login_the_way_out_is_told(tmp_path: Path, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    path = write_product(tmp_path, made)
    with pytest.raises(RemoteError, match="refused the login") as caught, open_gunw(f"{archive}/door/{path.name}"):
        pass
    assert "urs.earthdata.nasa.gov" in (caught.value.hint or "")
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("login")
def test_a_file_cut_short_is_no_product(tmp_path: Path, archive: str) -> None:
    path = write_product(tmp_path, made)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(RemoteError, match="could not be read"), open_gunw(f"{archive}/bucket/{path.name}"):
        pass
    with pytest.raises(InputError, match="could not be read"), open_gunw(str(path)):
        pass
    with pytest.raises(InputError, match="no product at"), open_gunw(str(tmp_path / names[3])):
        pass


def test_ranges_are_the_bytes_of_the_file(tmp_path: Path, archive: str) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "some.bin").write_bytes(content)
    rng = np.random.default_rng(1)
    with open_ranges(f"{archive}/bucket/some.bin", headers={}, block_bytes=4096) as stream:
        for _ in range(60):
            start, length = int(rng.integers(0, 300_000)), int(rng.integers(1, 30_000))
            stream.seek(start)
            found = bytearray()
            while len(found) < min(length, 300_000 - start):
                found += stream.read(length - len(found))
            assert bytes(found) == content[start : start + length]
        assert stream.seek(-10, 2) == 299_990
        assert stream.read() == content[-10:]
