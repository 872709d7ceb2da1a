"""dask with rioxarray or odc-geo, in an environment of their own: prints the seconds of one run."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import dask
import numpy as np
import rioxarray
import xarray
import zarr

chip_px, shard_chips = 128, 256
west, north, epsg = 500_480.0, 5_120_000.0, 32632


def cut_with_rioxarray(source: Path, target: Path, side: int) -> None:
    """A lazily opened raster, chunked by its blocks, reshaped to chips and stored as whole shards of zarr-python."""
    count = side // chip_px
    scene = rioxarray.open_rasterio(source, chunks={"band": -1, "y": chip_px * 4, "x": chip_px * 4}, lock=False)
    scene = scene.isel(y=slice(0, count * chip_px), x=slice(0, count * chip_px)).data
    bands = scene.shape[0]
    lines = scene.reshape(bands, count, chip_px, count, chip_px).transpose(1, 3, 0, 2, 4)
    chips = lines.reshape(count * count, bands, chip_px, chip_px).rechunk((shard_chips, bands, chip_px, chip_px))
    shutil.rmtree(target, ignore_errors=True)
    array = zarr.create_array(
        target,
        shape=chips.shape,
        chunks=(1, bands, chip_px, chip_px),
        shards=(shard_chips, bands, chip_px, chip_px),
        dtype="uint16",
        compressors=[zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")],
    )
    dask.array.store(chips, array, lock=False)


def warp_with_odc(source: Path, side: int) -> np.ndarray:
    """The raster on the chips' grid in blocks of 1280 pixels, bilinear without smoothing."""
    import odc.geo.xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

    grid = GeoBox((side, side), Affine(10.0, 0.0, west, 0.0, -10.0, north), f"EPSG:{epsg}")
    scene = xarray.open_dataarray(source, engine="rasterio", chunks={"band": -1, "y": 1024, "x": 1024}, masked=False)
    warped = odc.geo.xr.xr_reproject(
        scene, grid, resampling="bilinear", chunks=(1280, 1280), dst_nodata=65535, XSCALE=1, YSCALE=1
    )
    return warped.data.compute()


def main() -> None:
    """rioxarray|odc-geo SOURCE TARGET SIDE"""
    way, source, target, side = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    with dask.config.set(scheduler="threads", num_workers=2):
        started = time.perf_counter()
        if way == "rioxarray":
            cut_with_rioxarray(source, target, side)
        else:
            warp_with_odc(source, side)
        print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
