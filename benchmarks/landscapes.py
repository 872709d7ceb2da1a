"""Large rasters for the benches of cutting: made-up landscapes, or a real scene mirrored until it is large enough."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

from benchmarks.synthetic import smooth_field
from m3etl.spec.catalog import find_array
from m3etl.spec.lattice import lonlat_of_xy
from m3etl.stages.cutting import ChipPlace

west, north, epsg = 500_480.0, 5_120_000.0, 32632
chip_px, chip_m = 128, 1280.0
nodata = 65535
spec = find_array("sentinel2_l2a")


def make_landscape(side: int, seed: int = 0) -> np.ndarray:
    """(12, side, side) uint16: four mixed spectra, relief, noise, a wedge without data."""
    rng = np.random.default_rng(seed)
    cover = np.stack([smooth_field(rng, side) for _ in range(4)])
    share = np.exp(2 * cover)
    share /= share.sum(0)
    relief, spectra = 200 * smooth_field(rng, side), rng.uniform(200, 4500, (4, len(spec.bands)))
    bands = np.empty((len(spec.bands), side, side), np.uint16)
    for number in range(len(bands)):
        values = np.einsum("kyx,k->yx", share, spectra[:, number]) + relief + rng.normal(0, 11, (side, side))
        bands[number] = np.clip(values, 0, 65534)
    y, x = np.mgrid[:side, :side]
    bands[:, x + y < side // 5] = nodata
    return bands


def real_landscape(side: int) -> np.ndarray | None:
    """(12, side, side) uint16 of the real Sentinel-2 scene, mirrored at its edges; None where it is not there."""
    folder = Path(os.environ.get("M3ETL_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    found = sorted((folder / "sentinel2_nz").glob("*.tif"))
    if not found:
        return None
    with rasterio.open(found[0]) as file:
        scene = file.read(list(range(1, len(spec.bands) + 1)))
    pad = [(0, 0), *((0, side - length) for length in scene.shape[1:])]
    return np.pad(scene, pad, mode="symmetric")


def write_cog(path: Path, values: np.ndarray, *, interleave: str, affine: tuple[float, ...] = ()) -> Path:
    """A tiled, compressed GeoTIFF with named bands, on the lattice unless `affine` says otherwise."""
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "zlevel": 6,
        "predictor": 2,
        "interleave": interleave,
        "nodata": nodata,
        "crs": f"EPSG:{epsg}",
        "transform": Affine(*(affine or (10.0, 0.0, west, 0.0, -10.0, north))),
        "num_threads": 2,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        for number, name in enumerate(spec.bands[: len(values)], start=1):
            file.set_band_description(number, name)
    return path


def places_of(side: int, *, order: str = "by row") -> list[ChipPlace]:
    """Every chip of a raster of this side, in the order of its lines, or drawn as a plan draws them."""
    count = side // chip_px
    numbers = np.arange(count * count)
    if order != "by row":
        numbers = np.random.default_rng(0).permutation(numbers)
    down, across = np.divmod(numbers, count)
    xmin, ymax = west + chip_m * across, north - chip_m * down
    lon, lat = lonlat_of_xy(np.full(len(numbers), epsg), xmin + chip_m / 2, ymax - chip_m / 2)
    columns = (part.tolist() for part in (xmin, ymax, lon, lat))
    return [
        ChipPlace(row=row, chip_id=f"chip-{row}", epsg=epsg, xmin=x, ymax=y, lon=a, lat=b)
        for row, (x, y, a, b) in enumerate(zip(*columns, strict=True))
    ]
