"""A user's own rasters as the source of one array: which files, which of their bands, and what their numbers mean."""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from m3etl.compute.storing import SourceNumbers
from m3etl.compute.warp import Method
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.geotiffs import Raster, check_alike, describe_raster, is_remote
from m3etl.spec.modality import ArraySpec, Resampling, Shape, Values

endings = (".tif", ".tiff", ".vrt", ".jp2", ".img")
_interpolating = (Method.BILINEAR, Method.CUBIC, Method.AVERAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFiles:
    """Rasters that hold one array.

    rasters: alike, with the nodata that counts. bands: their numbers in the files, from 1, in the order of the array's.
    method: of resampling where the files lie on another grid, None for the array's own.
    """

    spec: ArraySpec
    rasters: tuple[Raster, ...]
    bands: tuple[int, ...]
    numbers: SourceNumbers
    method: Method | None = None
    license: str = "unknown"


def find_local_files(
    spec: ArraySpec,
    files: Sequence[str],
    *,
    bands: Sequence[str] = (),
    nodata: str = "",
    values: str = "",
    method: str = "",
    license_id: str = "unknown",
) -> LocalFiles:
    """The rasters that `files` name (paths, patterns, directories, URLs), checked against the array's declaration.

    bands: names of the files' bands in their order, where the files do not say them. nodata: a number, `nan`, or
    `none` where every pixel was observed; as declared in the files by default. values: `physical`, or `stored` where
    the numbers are the array's own stored ones; needed only where both could be meant. method: of resampling.

    Raises NothingSelectedError where no file matches, InputError where files do not fit.
    """
    if spec.shape is not Shape.RASTER:
        raise InputError(f"{spec.name} is no picture but a list of numbers: it cannot come from rasters")
    locations = _locations(files)
    with ThreadPoolExecutor(8) as pool:
        rasters = tuple(pool.map(describe_raster, locations))
    first = rasters[0]
    for raster in rasters[1:]:
        check_alike(first, raster)
    if first.dtype.startswith(("complex", "c")):
        raise InputError(f"{first.name} holds complex numbers", hint="Import magnitude or phase.")
    scale, offset = _units(spec, first, values)
    counting = _nodata(first, nodata)
    chosen = _band_numbers(spec, first, bands)
    return LocalFiles(
        spec=spec,
        rasters=tuple(replace(raster, nodata=counting) for raster in rasters),
        bands=chosen,
        numbers=SourceNumbers(nodata=tuple(counting[number - 1] for number in chosen), scale=scale, offset=offset),
        method=_method(spec, method),
        license=license_id,
    )


def _locations(files: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in files:
        if is_remote(name) or name.startswith("/vsi"):
            found.append(name)
        elif Path(name).is_dir():
            found += sorted(str(path) for path in Path(name).rglob("*") if path.suffix.lower() in endings)
        else:
            matching = sorted(glob.glob(name, recursive=True))
            found += matching or ([name] if Path(name).suffix and not glob.has_magic(name) else [])
    if not found:
        raise NothingSelectedError(
            f"no raster matches {', '.join(files)}",
            hint=f"Name files, a pattern or a directory with files ending in {', '.join(endings)}.",
        )
    return list(dict.fromkeys(found))


def _band_numbers(spec: ArraySpec, raster: Raster, bands: Sequence[str]) -> tuple[int, ...]:
    count = len(raster.bands)
    if bands and len(bands) != count:
        raise InputError(
            f"{len(bands)} names are given for the bands of {raster.name}, which has {count}",
            hint="Name every band of the files, in their order.",
        )
    names = list(bands or raster.bands)
    if count == 1 and len(spec.bands) == 1:
        return (1,)
    missing = [band for band in spec.bands if names.count(band) != 1]
    if missing:
        raise InputError(
            f"{spec.name} needs the bands {', '.join(spec.bands)}; {raster.name} has {', '.join(names)}",
            hint="Say the names of the files' bands in their order: `bands = [...]` in [sources] of campaign.toml.",
        )
    return tuple(names.index(band) + 1 for band in spec.bands)


def _units(spec: ArraySpec, raster: Raster, values: str) -> tuple[float, float]:
    """(scale, offset) of the files' numbers."""
    own = (spec.scale, spec.offset)
    declared = (raster.scale, raster.offset)
    if values not in ("", "physical", "stored"):
        raise InputError(f"values = {values!r} is neither `physical` nor `stored`")
    if values == "stored":
        return own
    is_float = raster.dtype.startswith("float")
    if values == "" and declared == (1.0, 0.0) and own != (1.0, 0.0) and not is_float:
        unit = "" if spec.units == "1" else f" {spec.units}"
        raise InputError(
            f"{spec.name} is stored in steps of {spec.scale:g}{unit}; {raster.name} holds {raster.dtype} "
            "without a scale, so its numbers could be those steps or the physical values",
            hint='Say `values = "stored"` or `values = "physical"` in [sources] of campaign.toml.',
        )
    return declared


def _nodata(raster: Raster, nodata: str) -> tuple[float | None, ...]:
    if nodata == "none":
        return (None,) * len(raster.bands)
    if nodata:
        try:
            return (float(nodata),) * len(raster.bands)
        except ValueError:
            raise InputError(f"nodata = {nodata!r} is no number, nor `none`") from None
    if raster.has_mask:
        raise InputError(
            f"{raster.name} marks missing pixels by a mask or alpha band, which is not read",
            hint="Write them as a nodata value (`gdalwarp -dstnodata`), or say `nodata`.",
        )
    if raster.dtype.startswith("float"):
        return tuple(math.nan if value is None else value for value in raster.nodata)
    if None in raster.nodata:
        raise InputError(
            f"{raster.name} declares no nodata value, so that missing pixels would count as observed",
            hint='Say `nodata = "0"` (the number that marks them) or `nodata = "none"` (none is missing) in [sources] '
            "of campaign.toml, or write it into the files with `gdal_edit.py -a_nodata`.",
        )
    return raster.nodata


def _method(spec: ArraySpec, method: str) -> Method | None:
    if not method:
        return None
    known = [str(item) for item in Method]
    if method not in known:
        raise InputError(f"unknown resampling: {method}", hint=f"Use one of {', '.join(known)}.")
    chosen = Method(method)
    takes_means = chosen in _interpolating
    if takes_means and (spec.values is Values.CLASSES or spec.resampling is Resampling.NEAREST):
        raise InputError(f"{spec.name} holds codes, which have no {method}", hint="Use nearest or mode.")
    return chosen
