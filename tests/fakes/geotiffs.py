"""GeoTIFFs of known content for tests: every pixel says where it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine


def write_geotiff(
    path: Path,
    values: np.ndarray,
    *,
    affine: tuple[float, ...] | None = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0),
    crs: str | None = "EPSG:32632",
    nodata: float | None = None,
    block: int = 64,
    names: tuple[str, ...] = (),
    **options: Any,
) -> Path:
    """`values` (band, y, x) as a compressed GeoTIFF, tiled unless block is 0."""
    tiling = {"tiled": True, "blockxsize": block, "blockysize": block} if block else {"tiled": False, "blockysize": 7}
    profile = {
        "driver": "GTiff",
        "dtype": values.dtype,
        "count": values.shape[0],
        "height": values.shape[1],
        "width": values.shape[2],
        "compress": "deflate",
        "nodata": nodata,
        **tiling,
        **options,
    }
    if crs is not None:
        profile["crs"] = crs
    if affine is not None:
        profile["transform"] = Affine(*affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as file:
            file.write(values)
            for number, name in enumerate(names, start=1):
                file.set_band_description(number, name)
    return path


def numbered(bands: int, height: int, width: int, dtype: str = "uint16") -> np.ndarray:
    """(band, y, x) where neighbours, rows and bands all differ."""
    band, row, column = np.mgrid[:bands, :height, :width]
    return ((band * 7919 + row * 613 + column * 11 + 1) % 60_000).astype(dtype)
