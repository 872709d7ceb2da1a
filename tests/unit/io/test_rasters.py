"""Windows of rasters: the same bytes as rasterio window by window, each block read once, and files that are wrong."""

from __future__ import annotations

import functools
import http.server
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes.geotiffs import numbered, write_geotiff
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.compute.grids import PixelWindow
from m3etl.errors import InputError, RemoteError
from m3etl.io import rasters
from m3etl.io.geotiffs import gdal_name
from m3etl.io.rasters import describe_raster, read_windows


def window(column, row, width=32, height=32):
    return PixelWindow(column=column, row=row, width=width, height=height)


def expected(values, wanted, outside=0):
    """Cut by hand: (band, y, x), `outside` beyond the raster, and what is covered."""
    found = np.full((values.shape[0], wanted.height, wanted.width), outside, values.dtype)
    covered = np.zeros(found.shape[1:], bool)
    whole = PixelWindow(column=0, row=0, width=values.shape[2], height=values.shape[1])
    part = wanted.intersection(whole)
    if part:
        found[:, *wanted.slices(part)] = values[:, *whole.slices(part)]
        covered[wanted.slices(part)] = True
    return found, covered


@pytest.fixture(scope="module", params=["tiled, by pixel", "tiled, by band", "strips"])
def raster(request, tmp_path_factory):
    options = {"interleave": "band" if request.param.endswith("band") else "pixel"}
    values = numbered(3, 230, 310)
    block = 0 if request.param == "strips" else 64
    path = write_geotiff(tmp_path_factory.mktemp("r") / "a.tif", values, block=block, **options)
    return describe_raster(path), values


@settings(max_examples=40)
@given(
    places=st.lists(
        st.tuples(st.integers(-80, 330), st.integers(-80, 250), st.integers(1, 130), st.integers(1, 130)),
        min_size=1,
        max_size=12,
    ),
    most_bytes=st.sampled_from([1, 40_000, 1 << 30]),
    threads=st.sampled_from([1, 3]),
)
def test_any_windows_in_any_order_are_the_file_s_own_pixels(raster, places, most_bytes, threads):
    described, values = raster
    windows = [window(*place) for place in places]
    found = list(read_windows([described], windows, threads=threads, most_bytes=most_bytes))
    assert [item.index for item in found] == list(range(len(windows)))
    for wanted, item in zip(windows, found, strict=True):
        pixels, covered = expected(values, wanted)
        np.testing.assert_array_equal(item.values, pixels)
        np.testing.assert_array_equal(np.ones_like(covered) if item.covered is None else item.covered, covered)
        assert item.values.dtype == values.dtype


def test_every_block_is_read_once_however_the_chips_lie(tmp_path, monkeypatch):
    values = numbered(2, 256, 256)
    described = describe_raster(write_geotiff(tmp_path / "a.tif", values))
    monkeypatch.setattr(rasters, "read_bytes", 1)  # groups of one block
    seen = []
    read = rasters.read_box
    monkeypatch.setattr(rasters, "read_box", lambda raster, bands, box: seen.append(box) or read(raster, bands, box))
    places = np.random.default_rng(0).permutation(60).tolist()
    windows = [window(3 + 32 * (place % 7), 5 + 25 * (place // 7)) for place in places]
    for wanted, item in zip(windows, read_windows([described], windows), strict=True):
        np.testing.assert_array_equal(item.values, expected(values, wanted)[0])
    blocks = [(box.column // 64, box.row // 64) for box in seen]
    assert len(blocks) == len(set(blocks)) == 16
    assert all((b.column % 64) + b.width <= 64 and (b.row % 64) + b.height <= 64 for b in seen), "within one block"


def test_chosen_bands_in_the_order_asked(tmp_path):
    values = numbered(4, 40, 40)
    described = describe_raster(write_geotiff(tmp_path / "a.tif", values, names=("B4", "B3", "B2", "B8")))
    assert described.bands == ("B4", "B3", "B2", "B8")
    [item] = read_windows([described], [window(0, 0, 40, 40)], bands=[3, 1])
    np.testing.assert_array_equal(item.values, values[[2, 0]])
    with pytest.raises(InputError, match="bands 1 to 4"):
        list(read_windows([described], [window(0, 0)], bands=[5]))


def test_files_of_one_grid_are_one_raster(tmp_path):
    values = numbered(2, 100, 150)
    left = write_geotiff(tmp_path / "l.tif", values[:, :, :80])
    right = write_geotiff(tmp_path / "r.tif", values[:, :, 80:], affine=(10.0, 0, 500_800.0, 0, -10.0, 5_000_000.0))
    [item] = read_windows([describe_raster(left), describe_raster(right)], [window(60, 20, 50, 50)])
    np.testing.assert_array_equal(item.values, values[:, 20:70, 60:110])
    assert item.covered.all()


def test_where_files_overlap_the_first_counts_and_others_fill_its_gaps(tmp_path):
    one, two, three = (np.full((2, 50, 50), number, "int16") for number in (1, 2, 3))
    one[:, :10], two[:, :5] = -1, -1
    one[0, 20, 20] = -1  # one band of it is observed
    paths = [write_geotiff(tmp_path / f"{n}.tif", v, nodata=-1) for n, v in enumerate((one, two, three))]
    [item] = read_windows([describe_raster(path) for path in paths], [window(0, 0, 50, 60)])
    assert item.values[:, :5].tolist() == np.full((2, 5, 50), 3).tolist()
    assert (item.values[:, 5:10] == 2).all()
    assert item.values[:, 20, 20].tolist() == [-1, 1]
    assert (item.values[:, 30:50] == 1).all()
    np.testing.assert_array_equal(item.covered.all(axis=1), np.arange(60) < 50)


def test_memory_is_bounded_by_the_run(tmp_path):
    described = describe_raster(write_geotiff(tmp_path / "a.tif", numbered(1, 64, 64)))
    asked = []

    def windows():
        for number in range(50):
            asked.append(number)
            yield window(number, 0, 16, 16)

    reading = read_windows([described], windows(), most_bytes=4 * 16 * 16 * 2)
    next(reading)
    assert len(asked) <= 10, "two runs of four, and the window that begins the next"
    reading.close()


fresh_pages = """
import resource, sys
import numpy as np
from m3etl.io.rasters import describe_raster

def faults():
    chips = [np.ones(400_000, np.uint8) for _ in range(100)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

describe_raster(sys.argv[1])
faults()
before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide themselves")
def test_freed_chips_are_used_again_and_not_cleared_anew(tmp_path):
    file = write_geotiff(tmp_path / "a.tif", numbered(1, 64, 64))
    done = subprocess.run([sys.executable, "-c", fresh_pages, str(file)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100, "of the 9,800 pages of these chips"


def test_files_that_do_not_belong_together(tmp_path):
    first = describe_raster(write_geotiff(tmp_path / "a.tif", numbered(2, 20, 20)))
    other = describe_raster(write_geotiff(tmp_path / "b.tif", numbered(1, 20, 20, "int16"), nodata=-9))
    with pytest.raises(InputError, match=r"bands .*; data type uint16 and int16; nodata"):
        list(read_windows([first, other], [window(0, 0)]))
    path = write_geotiff(tmp_path / "c.tif", numbered(2, 20, 20), affine=(10.0, 0, 500_003.0, 0, -10.0, 5_000_000.0))
    with pytest.raises(InputError, match=r"c\.tif does not lie on the pixel grid of .*a\.tif"):
        list(read_windows([first, describe_raster(path)], [window(0, 0)]))
    with pytest.raises(InputError, match="no raster"):
        list(read_windows([], [window(0, 0)]))


def test_files_that_are_wrong_are_named_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*gone\.tif"):
        describe_raster(tmp_path / "gone.tif")
    (tmp_path / "text.tif").write_text("not a raster")
    with pytest.raises(InputError, match=r"text\.tif cannot be opened as a raster"):
        describe_raster(tmp_path / "text.tif")
    for name, options, missing in (
        ("a.tif", {"crs": None}, "no coordinate system"),
        ("b.tif", {"affine": None}, "no geotransform"),
    ):
        write_geotiff(tmp_path / name, numbered(1, 20, 20), **options)
        with pytest.raises(InputError, match=missing) as caught:
            describe_raster(tmp_path / name)
        assert "gdal_edit" in caught.value.hint


def test_a_file_cut_short_fails_where_it_is_read(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 9999, (2, 300, 300), np.uint16))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    described = describe_raster(path)
    with pytest.raises(InputError, match=r"a\.tif cannot be read at row .*: ") as caught:
        list(read_windows([described], [window(0, 0, 300, 300)]))
    assert "cut short" in caught.value.hint


def test_the_header_tells_nodata_and_masks(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbered(2, 32, 32, "float32"), nodata=float("nan"))
    assert np.isnan(describe_raster(path).nodata).all()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.nodata = None
        file.write_mask(np.full((32, 32), 255, np.uint8))
    assert describe_raster(path).has_mask


class _Files(http.server.SimpleHTTPRequestHandler):
    """Files with ranges, as an object store serves them; counts bytes."""

    sent = 0

    def do_GET(self):
        content = self._content()
        start, _, stop = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(start) : int(stop) + 1 if stop else None]
        self.send_response(206 if "Range" in self.headers else 200)
        self._describe(len(part))
        self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}")
        self.end_headers()
        type(self).sent += len(part)
        self.wfile.write(part)

    def do_HEAD(self):
        self.send_response(200)
        self._describe(len(self._content()))
        self.end_headers()

    def _content(self):
        return (Path(self.directory) / self.path.split("?")[0].strip("/")).read_bytes()

    def _describe(self, size):
        self.send_header("Content-Length", str(size))
        self.send_header("Accept-Ranges", "bytes")

    def log_message(self, *_):
        return None


def test_a_remote_raster_is_read_by_ranges(tmp_path):
    values = np.random.default_rng(0).integers(0, 9999, (2, 512, 512), np.uint16)
    write_geotiff(tmp_path / "remote.tif", values)
    size = (tmp_path / "remote.tif").stat().st_size
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/remote.tif"
        described = describe_raster(url)
        [item] = read_windows([described], [window(100, 100, 64, 64)])
        np.testing.assert_array_equal(item.values, values[:, 100:164, 100:164])
        assert _Files.sent < size / 2
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(RemoteError, match="cannot be opened") as caught:
        describe_raster(f"http://127.0.0.1:{server.server_port}/other.tif?signature=secret")
    assert "secret" not in str(caught.value)


def test_names_of_stores():
    assert gdal_name("gs://bucket/a.tif") == "/vsigs/bucket/a.tif"
    assert gdal_name("s3://bucket/a.tif") == "/vsis3/bucket/a.tif"
    assert gdal_name("https://x.org/a.tif?s=1") == "/vsicurl/https://x.org/a.tif?s=1"
    assert gdal_name("/data/a.tif") == "/data/a.tif"
