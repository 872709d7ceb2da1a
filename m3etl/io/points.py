"""Reads a user's points (GeoJSON, CSV, GeoParquet) with their labels and dates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from m3etl.errors import InputError

Floats = npt.NDArray[np.float64]

coordinate_names = (("lon", "lat"), ("longitude", "latitude"), ("lng", "lat"), ("x", "y"))
_shown = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTable:
    """Points in degrees, (N,) each, and the user's other columns; `date`, if there, is ISO 8601 UTC text or missing."""

    lon: Floats
    lat: Floats
    columns: pd.DataFrame


def read_points(path: Path) -> PointTable:
    """The points of a CSV (columns lon, lat; longitude, latitude; or x, y), GeoJSON, GeoParquet or other vector file.

    Other coordinate systems than degrees are converted. Raises InputError with every problem: unreadable or empty
    file, no coordinate columns, features that are no points, missing or impossible coordinates, dates that are none.
    """
    problems: list[str] = []
    if not path.is_file():
        raise InputError(f"there is no file {path} to read points from")
    if path.suffix.lower() in {".csv", ".tsv", ".txt"}:
        lon, lat, columns = _from_table(_read_csv(path), problems)
    else:
        lon, lat, columns = _from_vector(path, problems)
    if not problems and len(lon) == 0:
        problems.append("it holds no points")
    _check_coordinates(lon, lat, problems)
    if "date" in columns:
        columns = columns.assign(date=_iso_dates(columns["date"], problems))
    if problems:
        raise InputError(
            f"{path} is no list of points: " + "; ".join(problems),
            hint="Give points as GeoJSON or GeoParquet, or as CSV with the columns lon and lat in degrees.",
        )
    return PointTable(lon=lon, lat=lat, columns=columns.reset_index(drop=True))


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read points from {path}: {error}") from error


def _from_table(table: pd.DataFrame, problems: list[str]) -> tuple[Floats, Floats, pd.DataFrame]:
    names = {str(name).strip().lower(): name for name in table.columns}
    pair = next((pair for pair in coordinate_names if pair[0] in names and pair[1] in names), None)
    if pair is None:
        found = ", ".join(map(str, table.columns)) or "none"
        problems.append(f"it has no columns lon and lat, longitude and latitude, or x and y (columns: {found})")
        return np.zeros(0), np.zeros(0), table
    values = [pd.to_numeric(table[names[name]], errors="coerce").to_numpy(dtype=np.float64) for name in pair]
    return values[0], values[1], table.drop(columns=[names[name] for name in pair])


def _from_vector(path: Path, problems: list[str]) -> tuple[Floats, Floats, pd.DataFrame]:
    from m3etl.io.ecoregions import lonlat_geometry, read_vector

    is_parquet = path.suffix.lower() in {".parquet", ".geoparquet", ".pq"}
    if is_parquet and not _has_geometry(path):
        return _from_table(pd.read_parquet(path), problems)
    table = read_vector(path, "points")
    if not hasattr(table, "geometry"):
        return _from_table(pd.DataFrame(table), problems)
    empty = table.geometry.isna() | table.geometry.is_empty
    kinds = sorted(set(table.geometry[~empty].geom_type) - {"Point"})
    if kinds:
        problems.append(f"features must be points, not {', '.join(kinds)}")
        return np.zeros(0), np.zeros(0), pd.DataFrame()
    geometry = lonlat_geometry(table.geometry, problems)
    columns = pd.DataFrame(table.drop(columns=table.active_geometry_name))
    return geometry.x.to_numpy(dtype=np.float64), geometry.y.to_numpy(dtype=np.float64), columns


def _has_geometry(path: Path) -> bool:
    import pyarrow
    import pyarrow.parquet

    try:
        return b"geo" in (pyarrow.parquet.read_schema(path).metadata or {})
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read points from {path}: {error}") from error


def _check_coordinates(lon: Floats, lat: Floats, problems: list[str]) -> None:
    missing = ~(np.isfinite(lon) & np.isfinite(lat))
    if missing.any():
        problems.append(f"{missing.sum()} points have no coordinates ({_rows(missing)})")
    impossible = (np.abs(lon) > 180.0) | (np.abs(lat) > 90.0)
    if impossible.any():
        problems.append(f"{impossible.sum()} points are not within -180..180 and -90..90 ({_rows(impossible)})")


def _iso_dates(column: pd.Series[Any], problems: list[str]) -> pd.Series[Any]:
    """Dates and times as `YYYY-MM-DDTHH:MM:SSZ`; times without a zone are UTC, empty ones stay missing."""
    if pd.api.types.is_numeric_dtype(column) and column.notna().any():
        problems.append("column date holds numbers; write dates as 2019-07-31 or 2019-07-31T10:15:00Z")
        return column
    given = column.notna() & (column.astype(str).str.strip() != "")
    moments = pd.to_datetime(column.where(given), utc=True, errors="coerce", format="ISO8601")
    wrong = (given & moments.isna()).to_numpy()
    if wrong.any():
        example = column[wrong].iloc[0]
        problems.append(f"{wrong.sum()} dates are not ISO 8601, such as {str(example)!r} ({_rows(wrong)})")
    return moments.dt.strftime("%Y-%m-%dT%H:%M:%SZ").astype(object).where(moments.notna(), None)


def _rows(flags: npt.NDArray[np.bool_]) -> str:
    """Row numbers from one, the first few of them."""
    rows = np.flatnonzero(flags) + 1
    more = f" and {len(rows) - _shown} more" if len(rows) > _shown else ""
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(map(str, rows[:_shown].tolist())) + more
