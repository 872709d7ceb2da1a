"""A raster whose values are the coordinates of its pixel centres comes back on the lattice within half a pixel, through
every resampling path, in both hemispheres, near a zone edge and near the antimeridian."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

from m3etl.spec.catalog import dynamic_world_classes, worldcover_classes
from tests.integration.pipeline import StoredChips, m3etl, write_points

side = 300  # pixels of 10 m: a chip of 640 m anywhere near the centre is well inside
places = {
    "north": (8.2, 47.3, 32632),
    "south": (-67.31, -21.4, 32719),
    "zone edge, raster of the next zone": (11.9, 50.1, 32633),
    "west of the antimeridian": (179.6, -16.7, 32760),
    "east of the antimeridian": (-179.7, 66.1, 32601),
}
world_codes = np.array([item.code for item in worldcover_classes])
dynamic_codes = np.array([item.code for item in dynamic_world_classes])


class Coded:
    """A place and its coded raster: value = metres east and south of the raster's corner."""

    def __init__(self, lon: float, lat: float, epsg: int) -> None:
        self.epsg = epsg
        x, y = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(lon, lat)
        self.left = np.floor(x / 10) * 10 - side * 5 + 3.7  # off the lattice by a fraction
        self.top = np.floor(y / 10) * 10 + side * 5 - 1.3
        steps = (np.arange(side) + 0.5) * 10
        self.east, self.south = np.meshgrid(steps, steps)

    def at(self, x, y, epsg):
        """Metres east and south of the corner of points given in another zone."""
        east, north = Transformer.from_crs(f"EPSG:{epsg}", f"EPSG:{self.epsg}", always_xy=True).transform(x, y)
        return east - self.left, self.top - north

    def write(self, path, band, dtype):
        transform = Affine(10, 0, self.left, 0, -10, self.top)
        options = {"driver": "GTiff", "width": side, "height": side, "count": 1, "crs": f"EPSG:{self.epsg}"}
        with rasterio.open(path, "w", dtype=dtype, transform=transform, **options) as file:
            file.write(band.astype(dtype), 1)


def archive_of(coded: Coded, folder):
    east, south = coded.east, coded.south
    column, row = (east // 10).astype(int), (south // 10).astype(int)
    files = {
        "east": (east, "uint16"),
        "south": (south, "uint16"),
        "east_db": (10 * np.log10(east / 1000), "float64"),
        "south_db": (10 * np.log10(south / 1000), "float64"),
        "canopy_east": (np.rint(np.clip((east - 800) / 5.5, 0, 250)), "uint8"),
        "canopy_south": (np.rint(np.clip((south - 800) / 5.5, 0, 250)), "uint8"),
        "ramp": (2.5e-4 * east**2 / 2, "float64"),
        "world": (world_codes[(column + 3 * row) % len(world_codes)], "uint8"),
        "dynamic": (dynamic_codes[(column + 2 * row) % len(dynamic_codes)], "uint8"),
        "scl": (1 + (column + 2 * row) % 11, "uint8"),
    }
    for name, (band, dtype) in files.items():
        coded.write(folder / f"{name}.tif", band, dtype)

    def image(asset, start, bands, **properties):
        rows = [{"id": band, "href": f"{name}.tif", "index": 1, "nodata": None} for band, name in bands.items()]
        line = {"type": "IMAGE", "id": asset, "start": start, "license": "CC-BY-4.0", "bands": rows}
        return {**line, "properties": properties}

    optical = {"B2": "east", "B3": "south", "B4": "east", "B8": "south"}
    radar = {"VV": "east_db", "VH": "south_db"}
    both = {"instrumentMode": "IW", "transmitterReceiverPolarisation": ["VV", "VH"], "resolution_meters": 10}
    lines = [
        image(
            "COPERNICUS/S2_SR_HARMONIZED/coded",
            "2019-06-10T10:00:00Z",
            {**optical, "SCL": "scl"},
            CLOUDY_PIXEL_PERCENTAGE=1.0,
        ),
        image("COPERNICUS/S2_HARMONIZED/coded", "2019-06-10T10:00:00Z", optical, CLOUDY_PIXEL_PERCENTAGE=1.0),
        image("COPERNICUS/S1_GRD/asc", "2019-06-11T17:00:00Z", radar, orbitProperties_pass="ASCENDING", **both),
        image("COPERNICUS/S1_GRD/desc", "2019-06-09T05:00:00Z", radar, orbitProperties_pass="DESCENDING", **both),
        image("projects/sat-io/open-datasets/ASTER/GDEM", "2011-01-01T00:00:00Z", {"b1": "ramp"}),
        image("users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1", "2020-01-01T00:00:00Z", {"b1": "canopy_east"}),
        image("users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1", "2020-01-01T00:00:00Z", {"b1": "canopy_south"}),
        image("ESA/WorldCover/v100/2020", "2020-01-01T00:00:00Z", {"Map": "world"}),
        image("GOOGLE/DYNAMICWORLD/V1/coded", "2019-06-10T10:00:00Z", {"label": "dynamic"}),
    ]
    (folder / "archive.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module", params=places, ids=lambda name: name.replace(" ", "_"))
def coded_chip(request, tmp_path_factory):
    lon, lat, epsg = places[request.param]
    folder = tmp_path_factory.mktemp("coded")
    coded = Coded(lon, lat, epsg)
    archive_of(coded, folder)
    points = write_points(folder / "points.geojson", [(lon, lat, "2019-06-10T10:00:00Z")])
    sample = ("sample", "--strategy", "points", "--points", str(points), "--chip-px", "64", "--years", "2019:2019")
    m3etl(folder / "c", *sample, archive=folder)
    m3etl(folder / "c", "export", "--s2", "both", archive=folder)
    chips = StoredChips(folder / "c")
    assert len(chips.ids) == 1
    return coded, chips, chips.ids[0]


def expected(coded_chip, array):
    coded, chips, chip_id = coded_chip
    return coded.at(*chips.centres(array, chip_id), chips.plan.loc[chip_id]["epsg"])


@pytest.mark.parametrize("array", ["sentinel2_l2a", "sentinel2_l1c"])
def test_reflectance(coded_chip, array):
    _, chips, chip_id = coded_chip
    east, south = expected(coded_chip, array)
    values = dict(zip(chips.spec(array).bands, chips.physical(array, chip_id) / 1e-4, strict=True))
    for band, wanted in (("B2", east), ("B3", south), ("B4", east), ("B8", south)):
        assert np.abs(values[band] - wanted).max() < 1.0, band  # a tenth of a pixel: the ramp is linear
    assert np.isnan(values["B12"]).all(), "a band that the image lacks stays empty"


@pytest.mark.parametrize("array", ["sentinel1_asc", "sentinel1_desc"])
def test_backscatter(coded_chip, array):
    _, chips, chip_id = coded_chip
    east, south = expected(coded_chip, array)
    power = 10 ** (chips.physical(array, chip_id) / 10) * 1000
    assert np.abs(power[0] - east).max() < 5.0
    assert np.abs(power[1] - south).max() < 5.0


def test_elevation_and_slope_on_the_coarse_grid(coded_chip):
    _, chips, chip_id = coded_chip
    east, _ = expected(coded_chip, "aster_elevation")
    height = chips.physical("aster_elevation", chip_id)[0]
    assert height.shape == (21, 21)
    assert np.abs(np.sqrt(height / 1.25e-4) - east).max() < 5.0
    slope = np.tan(np.radians(chips.physical("aster_slope", chip_id)[0]))
    assert np.abs(slope / 2.5e-4 - east).max() < 15.0


def test_canopy_height(coded_chip):
    _, chips, chip_id = coded_chip
    east, south = expected(coded_chip, "canopy_height")
    values = chips.physical("canopy_height", chip_id)
    assert np.abs(values[0] * 5.5 + 800 - east).max() < 5.0
    assert np.abs(values[1] * 5.5 + 800 - south).max() < 5.0


@pytest.mark.parametrize(
    ("array", "band", "codes", "step"),
    [
        ("worldcover", 0, world_codes, 3),
        ("dynamic_world", 0, dynamic_codes, 2),
        ("sentinel2_cloud", 2, np.arange(1, 12), 2),
    ],
)
def test_classes(coded_chip, array, band, codes, step):
    _, chips, chip_id = coded_chip
    east, south = expected(coded_chip, array)
    column, row = east / 10, south / 10
    near_edge = (np.abs(column - column.round()) < 0.01) | (np.abs(row - row.round()) < 0.01)
    wanted = codes[(column.astype(int) + step * row.astype(int)) % len(codes)]
    actual = chips.physical(array, chip_id)[band]
    assert ((actual == wanted) | near_edge).all()
    assert near_edge.mean() < 0.1
