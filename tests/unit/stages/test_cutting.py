"""Chips out of a user's rasters: copied on the lattice, resampled off it, in order, whatever files they lie in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.geotiffs import numbered, write_geotiff

from m3etl.compute.grids import PixelGrid, chip_grid
from m3etl.compute.positions import find_positions
from m3etl.compute.storing import aligned, stored_of
from m3etl.errors import InputError
from m3etl.io.localfiles import find_local_files
from m3etl.spec.catalog import find_array
from m3etl.spec.lattice import lonlat_of_xy
from m3etl.spec.modality import physical_of
from m3etl.stages.cutting import ChipPlace, cut_chips

optical = replace(find_array("sentinel2_l2a"), bands=("B2", "B4"))
elevation, cover = find_array("aster_elevation"), find_array("worldcover")
metres = replace(elevation, native_gsd_m=10.0)
west, top, side = 500_480.0, 5_120_000.0, 320.0


def place(row, xmin, ymax, epsg=32632, chip_m=side):
    lon, lat = lonlat_of_xy(np.array([epsg]), np.array([xmin + chip_m / 2]), np.array([ymax - chip_m / 2]))
    return ChipPlace(
        row=row, chip_id=f"chip-{row}", epsg=epsg, xmin=xmin, ymax=ymax, lon=float(lon[0]), lat=float(lat[0])
    )


def grid_of_chips(columns, rows, order=None):
    places = [place(0, west + side * c, top - side * r) for r in range(rows) for c in range(columns)]
    order = range(len(places)) if order is None else order
    return [replace(places[index], row=row) for row, index in enumerate(order)]


def write(path, values, column=0, row=0, **options):
    """A file on the lattice whose first pixel is (column, row) of the chips' own pixels."""
    affine = (10.0, 0.0, west + 10.0 * column, 0.0, -10.0, top - 10.0 * row)
    return str(write_geotiff(path, values, affine=affine, **options))


def chip_of(values, at):
    """The chip at a place of an array whose first pixel is the first chip's."""
    column, row = round((at.xmin - west) / 10), round((top - at.ymax) / 10)
    return values[:, row : row + 32, column : column + 32]


@pytest.mark.parametrize("most_bytes", [1, 30_000, 1 << 30])
@pytest.mark.parametrize("threads", [1, 3])
def test_on_the_lattice_every_bit_is_copied_in_the_order_of_rows(tmp_path, most_bytes, threads):
    values = numbered(2, 200, 300)
    write(tmp_path / "a.tif", values[:, :, :170], nodata=65535, names=("B2", "B4"))
    write(tmp_path / "b.tif", values[:, :, 170:], column=170, nodata=65535, names=("B2", "B4"))
    source = find_local_files(optical, [str(tmp_path)], values="stored")
    places = grid_of_chips(9, 6, np.random.default_rng(0).permutation(54).tolist())
    found = list(cut_chips(source, places, chip_m=side, threads=threads, most_bytes=most_bytes))
    assert [item.place for item in found] == places
    for item in found:
        np.testing.assert_array_equal(item.values, chip_of(values, item.place))
    across = next(item for item in found if item.place.xmin == west + 5 * side)
    assert across.files == ("a.tif", "b.tif")


def test_beyond_the_files_is_fill_and_without_a_file_is_nothing(tmp_path):
    values = numbered(2, 40, 40)
    source = find_local_files(
        optical, [write(tmp_path / "a.tif", values, nodata=1, names=("B2", "B4"))], values="stored"
    )
    inside, edge, far = cut_chips(
        source, [place(0, west, top), place(1, west + side, top), place(2, west + 9e4, top)], chip_m=side
    )
    assert (inside.values[0, 0, 0], inside.values[1, 0, 0]) == (65535, 7920), "nodata of the file is the array's fill"
    np.testing.assert_array_equal(edge.values[:, :, :8], values[:, :32, 32:])
    assert (edge.values[:, :, 8:] == 65535).all()
    assert far.values is None
    assert far.files == ()


def test_a_coarser_array_is_the_mean_of_finer_pixels(tmp_path):
    values = np.random.default_rng(0).integers(0, 3000, (1, 128, 128)).astype(np.int16)
    source = find_local_files(elevation, [write(tmp_path / "a.tif", values, nodata=-32768)])
    [item] = cut_chips(source, [place(0, west, top, chip_m=1260.0)], chip_m=1260.0)
    wanted = values[:, :126, :126].reshape(1, 42, 3, 42, 3).mean(axis=(2, 4))
    assert item.values.shape == (1, 42, 42)
    assert np.abs(item.values - wanted).max() <= 0.5001, "rounding"


@pytest.mark.parametrize(
    "grid",
    [
        PixelGrid(crs="EPSG:32633", affine=(10.0, 0, 37_300.0, 0, -10.0, 5_137_700.0), width=400, height=400),
        PixelGrid(crs="EPSG:4326", affine=(1e-4, 0, 9.0, 0, -1e-4, 46.24), width=400, height=400),
        PixelGrid(crs="EPSG:32632", affine=(7.0, 7.0, west - 1500, 7.0, -7.0, top - 1000), width=400, height=400),
    ],
    ids=["next zone", "degrees", "turned"],
)
def test_off_the_lattice_windows_give_what_the_whole_file_gives(tmp_path, grid):
    values = np.random.default_rng(1).integers(0, 3000, (1, grid.height, grid.width)).astype(np.int16)
    values[:, :50] = -32768
    path = write_geotiff(tmp_path / "a.tif", values, affine=grid.affine, crs=grid.crs, nodata=-32768)
    source = find_local_files(metres, [str(path)])
    places = grid_of_chips(4, 3, np.random.default_rng(0).permutation(12).tolist())
    seen = 0
    for item in cut_chips(source, places, chip_m=side, most_bytes=100_000):
        target = chip_grid(epsg=32632, xmin=item.place.xmin, ymax=item.place.ymax, chip_m=side, pixels=32)
        wanted = aligned(metres, values, source.numbers, window=grid.window, positions=find_positions(grid, target))
        if item.values is None:
            assert (wanted == metres.fill).all()
        else:
            np.testing.assert_array_equal(item.values, wanted)
            seen += int((wanted != metres.fill).any())
    assert seen > 3


def test_files_of_two_zones_complete_each_other(tmp_path):
    edge_x, edge_y = 759_360.0, 5_120_000.0  # near 12 degrees east, in zone 32
    near = np.full((1, 40, 20), 100, np.int16)  # covers the west of the chip, in its own zone
    own = write_geotiff(tmp_path / "a32.tif", near, affine=(10.0, 0, edge_x, 0, -10.0, edge_y), nodata=-32768, block=0)
    from rasterio.warp import transform

    (x,), (y,) = transform("EPSG:32632", "EPSG:32633", [edge_x], [edge_y])
    affine = (10.0, 0, round(x, -1) - 500, 0, -10.0, round(y, -1) + 500)
    other = write_geotiff(
        tmp_path / "b33.tif", np.full((1, 200, 200), 200, np.int16), affine=affine, crs="EPSG:32633", nodata=-32768
    )
    source = find_local_files(metres, [str(own), str(other)])
    [item] = cut_chips(source, [place(0, edge_x, edge_y)], chip_m=side)
    assert (item.values[0, :, :20] == 100).all()
    assert (item.values[0, :, 20:] == 200).all()
    assert item.files == ("a32.tif", "b33.tif")


@pytest.mark.parametrize("start", [-180.0, 0.0], ids=["-180 to 180", "0 to 360"])
def test_a_map_of_the_world_has_no_edge_at_180_degrees(tmp_path, start):
    step = 0.25
    lon = start + (np.arange(1440) + 0.5) * step
    east = np.minimum((lon + 360) % 360, 360 - (lon + 360) % 360)  # continuous where the map ends or begins
    values = np.broadcast_to(east * 10, (1, 720, 1440)).astype(np.float32)
    path = write_geotiff(tmp_path / "a.tif", values, affine=(step, 0, start, 0, -step, 90.0), crs="EPSG:4326")
    coarse = replace(elevation, native_gsd_m=1000.0, dtype="float32", fill=None)
    source = find_local_files(coarse, [str(path)])
    places = [
        place(0, 810_000.0, 30_000.0, epsg=32660, chip_m=20_000.0),
        place(1, 820_000.0, 30_000.0, epsg=32660, chip_m=20_000.0),
        place(2, 170_000.0, 30_000.0, epsg=32601, chip_m=20_000.0),
        place(3, 490_000.0, 30_000.0, epsg=32631, chip_m=20_000.0),
    ]
    assert places[1].lon > 179.9 or places[1].lon < -179.9
    for item in cut_chips(source, places, chip_m=20_000.0):
        size = 1000.0
        x = item.place.xmin + (np.arange(20) + 0.5) * size
        y = np.full(20, item.place.ymax - 0.5 * size)
        true, _ = lonlat_of_xy(np.full(20, item.place.epsg), x, y)
        assert np.isfinite(item.values).all()
        # Within a pixel of the crest at 180 degrees the surface between pixels is flatter than the crest.
        np.testing.assert_allclose(item.values[0, 0], np.abs(true) * 10, atol=1.3)


def test_codes_that_are_no_class_are_named(tmp_path):
    codes = np.full((1, 40, 40), 10, np.uint8)
    codes[0, 3, 4] = 42
    source = find_local_files(cover, [write(tmp_path / "map.tif", codes, nodata=0)])
    with pytest.raises(InputError, match=r"map\.tif: over chip chip-0 are codes that are no class of worldcover: 42"):
        list(cut_chips(source, [place(0, west, top)], chip_m=side))


def test_a_file_cut_short_stops_the_cut(tmp_path):
    path = write(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 999, (1, 200, 200), np.int16), nodata=-1)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read at row"):
        list(cut_chips(find_local_files(metres, [path]), grid_of_chips(6, 6), chip_m=side))


def test_real_rasters_off_the_lattice(real_data):
    """The terramind elevations lie fractions of a metre off the lattice: within the range of their neighbours."""
    import rasterio

    path = sorted((real_data / "terramind" / "DEM").glob("*.tif"))[0]
    with rasterio.open(path) as file:
        values, origin, epsg = file.read(1).astype(float), (file.transform.c, file.transform.f), file.crs.to_epsg()
    source = find_local_files(metres, [str(path)], nodata="none")
    xmin, ymax = (np.floor(origin[0] / 1280) + 1) * 1280, np.floor(origin[1] / 1280) * 1280
    [item] = cut_chips(source, [place(0, xmin, ymax, epsg=epsg, chip_m=1280.0)], chip_m=1280.0)
    found = physical_of(metres, item.values)[0]
    column, row = int((xmin - origin[0]) // 10), int((origin[1] - ymax) // 10)
    height = min(128, 222 - row)
    width = min(128, 222 - column)
    around = np.stack(
        [
            values[row + i : row + i + height, column + j : column + j + width]
            for i in range(-1, 3)
            for j in range(-1, 3)
        ]
    )
    known = np.isfinite(found[:height, :width])
    assert known.all()
    assert (found[:height, :width] >= around.min(axis=0) - 0.5).all()
    assert (found[:height, :width] <= around.max(axis=0) + 0.5).all()


def test_the_same_pixels_from_the_lattice_are_what_is_stored(tmp_path):
    values = numbered(1, 40, 40, "int16") % 3000
    source = find_local_files(metres, [write(tmp_path / "a.tif", values, nodata=-1)])
    [item] = cut_chips(source, [place(0, west, top)], chip_m=side)
    np.testing.assert_array_equal(item.values, stored_of(metres, values[:, :32, :32], source.numbers))
