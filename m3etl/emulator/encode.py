"""Rasters as the bytes that the service answers: NPY, GeoTIFF (plain, zipped), PNG and JPEG."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3etl.emulator.model import Grid, Raster, crs_aliases, invalid

if TYPE_CHECKING:
    from rasterio.crs import CRS

png_formats = {"PNG", "JPEG", "AUTO_JPEG_PNG"}
file_formats = {"NPY", "GEO_TIFF", "ZIPPED_GEO_TIFF", "ZIPPED_GEO_TIFF_PER_BAND"} | png_formats
media_types = {
    "NPY": "application/octet-stream",
    "GEO_TIFF": "image/tiff",
    "ZIPPED_GEO_TIFF": "application/zip",
    "ZIPPED_GEO_TIFF_PER_BAND": "application/zip",
    "PNG": "image/png",
    "JPEG": "image/jpeg",
}
suffixes = {"NPY": ".npy", "GEO_TIFF": ".tif", "PNG": ".png", "JPEG": ".jpg"}

# GDAL's names of the pixel types, as the service's messages spell them.
gdal_names = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}


def check_format(file_format: str) -> str:
    """The format itself ("" means PNG or JPEG by content). Raises ServiceError for one that is not served."""
    name = file_format or "AUTO_JPEG_PNG"
    if name not in file_formats:
        raise invalid(
            f"File format {name} is not served by the embedded Earth Engine "
            f"(served: {', '.join(sorted(file_formats))})."
        )
    return name


def encode_raster(raster: Raster, file_format: str, *, name: str = "download") -> tuple[bytes, str]:
    """The raster in one of `file_formats`, and the media type of the bytes. `name` names the files inside a zip."""
    if file_format == "NPY":
        return encode_npy(raster), media_types["NPY"]
    if file_format == "GEO_TIFF":
        return encode_geotiff(raster), media_types["GEO_TIFF"]
    if file_format == "ZIPPED_GEO_TIFF":
        return _zip([(f"{name}.tif", encode_geotiff(raster))]), media_types[file_format]
    if file_format == "ZIPPED_GEO_TIFF_PER_BAND":
        parts = [(f"{name}.{band}.tif", encode_geotiff(_one_band(raster, band))) for band in raster.bands]
        return _zip(parts), media_types[file_format]
    return encode_picture(raster, file_format)


def encode_npy(raster: Raster) -> bytes:
    """A structured array (height, width) with one field per band in the band's own dtype; masked pixels are 0."""
    dtype = np.dtype([(band, values.dtype.newbyteorder("<")) for band, values in raster.bands.items()])
    table = np.zeros((raster.grid.height, raster.grid.width), dtype=dtype)
    for band, values in raster.bands.items():
        np.copyto(table[band], values, where=raster.valid[band])
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(table))
    return buffer.getvalue() + table.tobytes()


def common_dtype(dtypes: Iterable[np.dtype[Any]]) -> np.dtype[Any]:
    """The one dtype to which a synchronous GeoTIFF promotes its bands; 64-bit integers become float64."""
    dtype = np.result_type(*dtypes)
    return np.dtype("float64") if dtype.kind in "iu" and dtype.itemsize == 8 else dtype


def missing_value(dtype: np.dtype[Any]) -> float:
    """What a synchronous GeoTIFF stores for masked pixels and declares as nodata: type minimum, -inf for floats."""
    return float(np.iinfo(dtype).min) if dtype.kind in "iu" else float("-inf")


def encode_geotiff(raster: Raster) -> bytes:
    """A georeferenced GeoTIFF with band names; bands are promoted to one dtype, masked pixels are the nodata value."""
    from rasterio.io import MemoryFile

    dtype = common_dtype(values.dtype for values in raster.bands.values())
    missing = missing_value(dtype)
    with MemoryFile() as memory:
        with memory.open(**geotiff_profile(raster.grid, len(raster.bands), dtype), nodata=missing) as target:
            target.write(stack(raster, dtype, missing))
            target.descriptions = tuple(raster.bands)
        return bytes(memory.getbuffer())


def stack(raster: Raster, dtype: np.dtype[Any], missing: float) -> npt.NDArray[Any]:
    """All bands as (band, height, width) of one dtype, `missing` where not valid."""
    result = np.full((len(raster.bands), raster.grid.height, raster.grid.width), missing, dtype=dtype)
    for index, (band, values) in enumerate(raster.bands.items()):
        np.copyto(result[index], values, where=raster.valid[band], casting="same_kind")
    return result


def geotiff_profile(grid: Grid, count: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """rasterio's creation options for a GeoTIFF on `grid`."""
    from affine import Affine

    return {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": count,
        "dtype": dtype.name,
        "crs": resolve_crs(grid.projection.crs),
        "transform": Affine(*grid.projection.transform),
        "compress": "lzw",
        "bigtiff": "if_safer",
    }


@lru_cache(maxsize=256)
def resolve_crs(crs: str) -> CRS:
    """rasterio's CRS of an authority code or WKT. Raises ServiceError 400 when it is not known."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(crs_aliases.get(crs, crs))
    except CRSError:
        raise invalid(f"Projection: Unable to parse CRS '{crs[:80]}'.") from None


def encode_picture(raster: Raster, file_format: str) -> tuple[bytes, str]:
    """PNG (grey or RGB with alpha where something is masked) or JPEG (masked pixels black) of 1 or 3 bands.

    Values outside 0..255 are clamped. AUTO_JPEG_PNG is PNG where something is masked, else JPEG.
    """
    from PIL import Image

    names = list(raster.bands)
    alpha = raster.valid[names[0]].copy() if names else np.zeros((0, 0), dtype=bool)
    if len(names) == 4 and names[3] == "vis-alpha":
        alpha &= raster.bands[names[3]] > 0
        names = names[:3]
    if len(names) not in (1, 3):
        raise invalid(
            f"Image: PNG and JPEG need 1 or 3 bands, found {len(names)}; select bands or set a visualization."
        )
    planes = []
    for name in names:
        alpha &= raster.valid[name]
        values = np.nan_to_num(raster.bands[name].astype(np.float64), nan=0.0)
        planes.append(np.clip(values, 0, 255).astype(np.uint8))
    opaque = bool(alpha.all())
    picture = np.stack([*planes, *([] if opaque else [np.where(alpha, 255, 0).astype(np.uint8)])], axis=-1)
    if file_format == "AUTO_JPEG_PNG":
        file_format = "JPEG" if opaque else "PNG"
    if file_format == "JPEG" and not opaque:
        picture = np.where(alpha[..., None], picture[..., :-1], 0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(buffer, format=file_format)
    return buffer.getvalue(), media_types[file_format]


def _one_band(raster: Raster, band: str) -> Raster:
    return Raster(grid=raster.grid, bands={band: raster.bands[band]}, valid={band: raster.valid[band]})


def _zip(parts: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in parts:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
