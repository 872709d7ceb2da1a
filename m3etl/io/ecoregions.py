"""Reads ecoregion polygons from a vector file and brings their columns, numbers and coordinates to one form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.errors import InputError

if TYPE_CHECKING:
    import geopandas

readable = (
    "Readable are GeoJSON, GeoPackage, Shapefile (with its .shx and .dbf) and GeoParquet; check that the file is whole."
)
ecoregion_columns = ("eco_id", "eco_name", "biome_name", "realm", "geometry")


def read_ecoregions(path: Path) -> geopandas.GeoDataFrame:
    """The ecoregions of a vector file (Shapefile, GeoPackage, GeoParquet ...) as `normalise_ecoregions` gives them.

    Raises InputError for a file that is absent, unreadable or no table of ecoregions.
    """
    return normalise_ecoregions(read_vector(path, "ecoregions"), str(path))


def read_vector(path: Path, what: str) -> geopandas.GeoDataFrame:
    """A vector file as a table; InputError names what it was wanted for."""
    import geopandas
    import pyarrow

    if not path.exists():
        raise InputError(f"there is no file {path} to read {what} from", hint=readable)
    if path.is_file() and not path.stat().st_size:
        raise InputError(f"cannot read {what} from {path}: the file is empty", hint=readable)
    try:
        if path.suffix.lower() in {".parquet", ".geoparquet", ".pq"}:
            return geopandas.read_parquet(path)
        return geopandas.read_file(path)
    except (OSError, ValueError, KeyError, RuntimeError, pyarrow.ArrowException) as error:  # GDAL's are RuntimeErrors
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0].partition("; It might help to specify the correct driver")[0]  # GDAL's own syntax
        raise InputError(f"cannot read {what} from {path}: {reason}", hint=readable) from error


def normalise_ecoregions(table: Any, source: str) -> geopandas.GeoDataFrame:
    """A GeoDataFrame with eco_id (int64), eco_name, biome_name, realm and geometry (lon/lat), in the order of the ids.

    Takes RESOLVE's own column names in any case. A missing realm becomes "". Raises InputError with every problem:
    missing columns, ids that are no whole numbers, features that are no polygons, coordinates that are no longitude
    and latitude.
    """
    import geopandas

    columns = {str(name).lower(): name for name in table.columns}
    problems = [f"column {name!r} is missing" for name in ("eco_id", "eco_name", "biome_name") if name not in columns]
    if not isinstance(table, geopandas.GeoDataFrame) or table.active_geometry_name is None:
        _refuse([*problems, "it has no geometry"], source)
    if len(table) == 0:
        problems.append("it has no rows")
    geometry = lonlat_geometry(table.geometry, problems)
    kinds = sorted(set(geometry[geometry.notna()].geom_type) - {"Polygon", "MultiPolygon", "GeometryCollection"})
    if kinds:
        problems.append(f"features must be polygons, not {', '.join(kinds)}")
    ids = np.zeros(len(table), dtype=np.int64)
    if "eco_id" in columns:
        ids = _whole_numbers(table[columns["eco_id"]].to_numpy(), problems)
    _refuse(problems, source)
    texts = {name: _texts(table[columns[name]]) for name in ("eco_name", "biome_name")}
    realm = _texts(table[columns["realm"]]) if "realm" in columns else [""] * len(table)
    result = geopandas.GeoDataFrame(
        {"eco_id": ids, **texts, "realm": realm}, geometry=geometry.to_numpy(), crs="EPSG:4326"
    )
    return result.sort_values("eco_id", kind="stable", ignore_index=True)


def lonlat_geometry(geometry: geopandas.GeoSeries, problems: list[str]) -> geopandas.GeoSeries:
    """The same geometries in longitude and latitude; without a CRS they must look like degrees already."""
    if geometry.crs is not None and not geometry.crs.equals("EPSG:4326", ignore_axis_order=True):
        return geometry.to_crs("EPSG:4326")
    bounds = geometry.total_bounds
    if len(geometry) and np.all(np.isfinite(bounds)):
        west, south, east, north = bounds
        # RESOLVE's own polygons pass 180 degrees by rounding only.
        if west < -180.001 or east > 180.001 or south < -90.001 or north > 90.001:
            problems.append(
                f"coordinates reach from {west:g}, {south:g} to {east:g}, {north:g}: no longitude and latitude"
                + (", and the file names no coordinate system" if geometry.crs is None else "")
            )
    return geometry


def _whole_numbers(values: Any, problems: list[str]) -> Any:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.full(len(values), np.nan)
    wrong = ~(np.isfinite(numbers) & (numbers == np.round(numbers)))
    if wrong.any():
        problems.append(f"eco_id must be a whole number, not {values[int(np.argmax(wrong))]!r}")
        return np.zeros(len(numbers), dtype=np.int64)
    return numbers.astype(np.int64)


def _texts(column: Any) -> list[str]:
    return ["" if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]


def _refuse(problems: list[str], source: str) -> None:
    if problems:
        raise InputError(
            f"{source} is no table of ecoregions: " + "; ".join(problems),
            hint="Use RESOLVE Ecoregions 2017: polygons with the columns ECO_ID, ECO_NAME, BIOME_NAME and REALM.",
        )
