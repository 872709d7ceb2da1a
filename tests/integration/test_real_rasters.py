"""Chips made from real rasters equal an independent rasterio warp of the same files onto the chip's grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.warp import Resampling, reproject

from tests.integration.pipeline import StoredChips, m3etl, write_points

chip_px = 64
places = {
    "Tanzania": ("38D_378R_2_3", "2023-06-10T07:46:21Z", "sentinel1_asc"),
    "Chile": ("433D_629L_3_1", "2020-04-08T14:37:29Z", "sentinel1_asc"),
    "Denmark": ("637U_59R_1_3", "2017-10-30T10:41:51Z", "sentinel1_desc"),
}
new_zealand = ("sentinel2_nz/20201002T221611_20201002T221610_T60HWB.tif", "2020-10-02T22:16:11Z")
l2a_bands = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
l1c_bands = (*l2a_bands[:10], "B10", "B11", "B12")
esri_to_worldcover = {1: 80, 2: 10, 4: 90, 5: 40, 7: 50, 8: 60, 9: 70, 10: 100, 11: 30}


def inner_points(path: Path, date: str) -> list[tuple[float, float, str]]:
    """Centres of the lattice cells that lie wholly inside a raster, three pixels away from its edge."""
    with rasterio.open(path) as file:
        left, bottom, right, top = file.bounds
        to_lonlat = Transformer.from_crs(file.crs, "EPSG:4326", always_xy=True)
    cell = chip_px * 10
    columns = range(int((left + 30) // cell) + 1, int((right - 30) // cell))
    rows = range(int((bottom + 30) // cell) + 1, int((top - 30) // cell))
    centres = [((column + 0.5) * cell, (row + 0.5) * cell) for column in columns for row in rows]
    return [(*to_lonlat.transform(x, y), date) for x, y in centres]


def warped(path: Path, index: int, chip, *, resampling: Resampling, nodata=None, power=False):
    """The reference: one band of a file on the chip's grid by GDAL with exact scale; float64, NaN where not covered."""
    grid = Affine(10, 0, chip["xmin"], 0, -10, chip["ymax"])
    target = np.full((chip_px, chip_px), np.nan)
    with rasterio.open(path) as file:
        band = file.read(index).astype(np.float64)
        if nodata is not None:
            band[band == nodata] = np.nan
        reproject(
            10 ** (band / 10) if power else band,
            target,
            src_transform=file.transform,
            src_crs=file.crs,
            dst_transform=grid,
            dst_crs=f"EPSG:{chip['epsg']}",
            src_nodata=np.nan,
            dst_nodata=np.nan,
            resampling=resampling,
            XSCALE=1,
            YSCALE=1,
            tolerance=0,
        )
    return 10 * np.log10(target) if power else target


@pytest.fixture(scope="module")
def land_cover_archive(real_data, tmp_path_factory):
    """The real land-cover rasters, their codes renamed to WorldCover's, as ESA/WorldCover/v100; DEM as ASTER."""
    folder = tmp_path_factory.mktemp("archive")
    lines = [json.loads(line) for line in (real_data / "archive.jsonl").read_text().splitlines()]
    kept = []
    for line in lines:
        for band in line.get("bands", []):
            band["href"] = str(Path(band["href"]))
        if line["type"] == "IMAGE":
            kept.append(line)
    for source in ("terramind", "sentinel2_nz"):
        _copy_tree(real_data / source, folder / source)
    for name, (tile, _, _) in places.items():
        path = folder / f"worldcover_{tile}.tif"
        with rasterio.open(folder / "terramind" / "LULC" / f"{tile}.tif") as file:
            profile = {**file.profile, "driver": "GTiff"}
            codes = np.vectorize(lambda code: esri_to_worldcover.get(int(code), 0), otypes=[np.uint8])(file.read(1))
        with rasterio.open(path, "w", **{**profile, "dtype": "uint8", "nodata": None}) as file:
            file.write(codes, 1)
        bands = [{"id": "Map", "href": path.name, "index": 1, "nodata": 0}]
        image = {"type": "IMAGE", "id": f"ESA/WorldCover/v100/{tile}", "start": "2020-01-01T00:00:00Z", "bands": bands}
        kept.append({**image, "properties": {"place": name}})
    elevation = [{"id": "b1", "href": "terramind/DEM/38D_378R_2_3.tif", "index": 1, "nodata": None}]
    aster = "projects/sat-io/open-datasets/ASTER/GDEM"
    kept.append({"type": "IMAGE", "id": aster, "start": "2011-01-01T00:00:00Z", "properties": {}, "bands": elevation})
    (folder / "archive.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    return folder


def _copy_tree(source: Path, target: Path) -> None:
    for file in source.rglob("*.tif"):
        path = target / file.relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read_bytes())


@pytest.fixture(scope="module")
def chips(land_cover_archive, real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    points = [
        point
        for tile, date, _ in places.values()
        for point in inner_points(real_data / "terramind" / "S2L2A" / f"{tile}.tif", date)
    ]
    points += inner_points(real_data / new_zealand[0], new_zealand[1])
    file = write_points(folder / "points.geojson", points)
    sample = ("sample", "--strategy", "points", "--points", str(file), "--chip-px", str(chip_px))
    ecoregions = str(real_data / "ecoregions" / "Ecoregions2017.shp")
    m3etl(folder / "c", *sample, "--years", "2017:2023", "--ecoregions", ecoregions, archive=land_cover_archive)
    m3etl(folder / "c", "export", "--s2", "both", archive=land_cover_archive)
    return StoredChips(folder / "c")


def chips_of(chips: StoredChips, path: Path) -> list[str]:
    with rasterio.open(path) as file:
        bounds, epsg = file.bounds, file.crs.to_epsg()
    inside = [
        chip_id
        for chip_id, chip in chips.plan.iterrows()
        if chip["epsg"] == epsg
        and bounds.left < chip["xmin"] < bounds.right
        and bounds.bottom < chip["ymin"] < bounds.top
    ]
    assert inside, f"no chip lies in {path.name}"
    return inside


def assert_bilinear(chips, array, chip_id, band, reference):
    actual = chips.physical(array, chip_id)[chips.spec(array).bands.index(band)]
    inner = (slice(2, -2), slice(2, -2))
    spread = np.nanmax(reference) - np.nanmin(reference)
    assert np.isfinite(actual[inner]).all()
    rounding = 0.5 * chips.spec(array).scale
    assert np.abs(actual - reference)[inner].max() <= 0.01 * spread + rounding, (array, band)


@pytest.mark.parametrize("place", places)
def test_reflectance_of_both_levels(chips, real_data, place):
    tile = places[place][0]
    for array, folder, bands in (
        ("sentinel2_l2a", "S2L2A", l2a_bands),
        ("sentinel2_l1c", "S2L1C", l1c_bands),
    ):
        path = real_data / "terramind" / folder / f"{tile}.tif"
        for chip_id in chips_of(chips, path):
            for index, band in enumerate(bands, start=1):
                reference = warped(path, index, chips.plan.loc[chip_id], resampling=Resampling.bilinear) * 1e-4
                assert_bilinear(chips, array, chip_id, band, reference)


@pytest.mark.parametrize("place", places)
def test_backscatter_is_warped_in_linear_power(chips, real_data, place):
    tile, _, array = places[place]
    path = real_data / "terramind" / "S1RTC" / f"{tile}.tif"
    for chip_id in chips_of(chips, path):
        chip = chips.plan.loc[chip_id]
        for index, band in enumerate(("VV", "VH"), start=1):
            reference = warped(path, index, chip, resampling=Resampling.bilinear, power=True)
            assert_bilinear(chips, array, chip_id, band, reference)
        assert np.isnan(chips.physical(array, chip_id)[2:]).all(), "HH and HV were not acquired"


def test_level_1c_on_the_native_grid_is_identical(chips, real_data):
    path = real_data / new_zealand[0]
    for chip_id in chips_of(chips, path):
        for index, band in enumerate(l1c_bands, start=1):
            reference = warped(path, index, chips.plan.loc[chip_id], resampling=Resampling.nearest, nodata=0)
            actual = chips.physical("sentinel2_l1c", chip_id)[l1c_bands.index(band)]
            np.testing.assert_allclose(actual, reference * 1e-4, atol=1e-9)


@pytest.mark.parametrize("place", places)
def test_classes_are_nearest(chips, land_cover_archive, place):
    path = land_cover_archive / f"worldcover_{places[place][0]}.tif"
    with rasterio.open(path) as file:
        inverse = ~file.transform
    for chip_id in chips_of(chips, path):
        reference = warped(path, 1, chips.plan.loc[chip_id], resampling=Resampling.nearest, nodata=0)
        actual = chips.physical("worldcover", chip_id)[0]
        column, row = inverse @ chips.centres("worldcover", chip_id)
        near_edge = (np.abs(column - column.round()) < 0.01) | (np.abs(row - row.round()) < 0.01)
        same = (actual == reference) | (np.isnan(actual) & np.isnan(reference))
        assert (same | near_edge).all()


def test_elevation_on_its_coarse_grid(chips, real_data):
    path = real_data / "terramind" / "DEM" / "38D_378R_2_3.tif"
    with rasterio.open(path) as file:
        heights = file.read(1).astype(float)
        inverse = ~file.transform
    for chip_id in chips_of(chips, path):
        column, row = inverse @ chips.centres("aster_elevation", chip_id)
        left, top = np.floor(column - 0.5).astype(int), np.floor(row - 0.5).astype(int)
        right_part, lower_part = column - 0.5 - left, row - 0.5 - top
        upper = heights[top, left] * (1 - right_part) + heights[top, left + 1] * right_part
        lower = heights[top + 1, left] * (1 - right_part) + heights[top + 1, left + 1] * right_part
        reference = upper * (1 - lower_part) + lower * lower_part
        assert np.abs(chips.physical("aster_elevation", chip_id)[0] - reference).max() <= 0.51


def test_licences_of_real_rasters_are_recorded(chips):
    from m3etl.io.provenance import read_provenance

    provenance = read_provenance(chips.store.path.parent / "provenance").set_index(["chip_id", "array"])
    tanzania = [chip_id for chip_id, chip in chips.plan.iterrows() if chip["epsg"] == 32736]
    assert set(provenance.loc[tanzania].xs("sentinel2_l2a", level="array")["license"]) == {"CC-BY-SA-4.0"}
    assert set(provenance.loc[tanzania].xs("sentinel2_l2a", level="array")["origin"]) == {"archive"}


def test_every_array_of_a_chip_has_the_chips_corners(chips):
    for chip_id in chips.ids:
        chip = chips.plan.loc[chip_id]
        assert chip["xmax"] - chip["xmin"] == chip_px * 10
        assert chip["xmin"] % (chip_px * 10) == 0
        for array in ("sentinel2_l2a", "sentinel1_asc", "aster_elevation", "worldcover"):
            side = chips.stored(array, chip_id).shape[-1]
            assert side == chips.spec(array).pixels(chip_px * 10.0)
