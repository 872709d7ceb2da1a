"""Reads a user's points (GeoJSON, CSV, GeoParquet) with their labels and dates."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from m3etl.errors import InputError

Floats = npt.NDArray[np.float64]

coordinate_names = (("lon", "lat"), ("longitude", "latitude"), ("lng", "lat"), ("x", "y"))
parquet_suffixes = frozenset({".parquet", ".geoparquet", ".pq"})
table_suffixes = frozenset({".csv", ".tsv", ".txt"})
largest_table = 20_000_000  # points; a plan has no more chips
wanted = "Give points as GeoJSON or GeoParquet, or as CSV with the columns lon and lat in degrees."
_shown = 5
_chunk_rows = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTable:
    """Points in degrees, (N,) each, and the user's other columns; `date`, if there, is ISO 8601 UTC text or missing."""

    lon: Floats
    lat: Floats
    columns: pd.DataFrame


def read_points(path: Path) -> PointTable:
    """The points of a CSV (columns lon, lat; longitude, latitude; or x, y), GeoJSON, GeoParquet or other vector file.

    Other coordinate systems than degrees are converted; M3LEO's tiles become their centres. Raises InputError with
    every problem and the lines (of a CSV) or rows it is in: unreadable, empty or too large file, no coordinate
    columns, features that are no points, missing or impossible coordinates, dates that are none.
    """
    problems: list[str] = []
    if not path.is_file():
        raise InputError(f"there is no file {path} to read points from", hint=wanted)
    if not path.stat().st_size:
        raise InputError(f"cannot read points from {path}: the file is empty", hint=wanted)
    is_text = path.suffix.lower() in table_suffixes
    if is_text:
        lon, lat, columns = _from_table(_read_csv(path, problems), problems)
    else:
        lon, lat, columns = _from_vector(path, problems)
    if not problems and len(lon) == 0:
        problems.append("it holds no points")
    where = _Places(columns.index.to_numpy(), "line" if is_text else "row")
    _check_coordinates(lon, lat, where, problems)
    if "date" in columns:
        columns = columns.assign(date=_iso_dates(columns["date"], where, problems))
    if problems:
        raise InputError(
            f"{path} is no list of points: " + "; ".join(problems),
            hint=wanted,
        )
    return PointTable(lon=lon, lat=lat, columns=columns.reset_index(drop=True))


def has_geometry(path: Path) -> bool:
    """Whether a Parquet file is a GeoParquet file. Raises InputError where it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        return b"geo" in (pyarrow.parquet.read_schema(path).metadata or {})
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
            f"cannot read points from {path}: {error}", hint=f"Check that the file is whole. {wanted}"
        ) from error


@dataclass(frozen=True, slots=True)
class _Places:
    """Where in the file each row of a table comes from: (N,) numbers of lines or rows."""

    number: npt.NDArray[np.int64]
    word: str

    def __call__(self, flags: npt.NDArray[np.bool_]) -> str:
        """The first few places of the flagged rows."""
        found = self.number[np.flatnonzero(flags)]
        more = f" and {len(found) - _shown} more" if len(found) > _shown else ""
        return self.word + ("" if len(found) == 1 else "s") + " " + ", ".join(map(str, found[:_shown].tolist())) + more


def _read_csv(path: Path, problems: list[str]) -> pd.DataFrame:
    """The table, with line numbers as its index; stops reading a table that is too large."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    parts, count = [], 0
    try:
        with pd.read_csv(path, sep=separator, skip_blank_lines=False, chunksize=_chunk_rows) as chunks:
            for chunk in chunks:
                chunk.index = chunk.index + 2  # the header is line 1
                chunk = chunk.dropna(how="all")
                parts.append(chunk)
                count += len(chunk)
                if count > largest_table:
                    raise InputError(
                        f"{path} holds more than {largest_table:,} points, the most that make a plan",
                        hint="Cut the file into parts, one campaign each, or drop points of the same place.",
                    )
    except pd.errors.EmptyDataError:
        return pd.DataFrame(index=pd.Index([], dtype=np.int64))
    except pd.errors.ParserError as error:
        problems.append(_unequal_rows(path, separator) or str(error))
        return pd.DataFrame(columns=["lon", "lat"], index=pd.Index([], dtype=np.int64))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read points from {path}: {error}", hint=f"Check that the file is whole. {wanted}"
        ) from error
    return pd.concat(parts)


def _unequal_rows(path: Path, separator: str) -> str:
    """Which lines of a CSV have more fields than its header; "" where that is not what is wrong."""
    wrong = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(file, delimiter=separator)
        width = len(next(reader, []))
        wrong = [reader.line_num for row in reader if len(row) > width]
    where = _Places(np.asarray(wrong, dtype=np.int64), "line")
    return (
        f"{len(wrong)} rows have more than {width} fields ({where(np.ones(len(wrong), dtype=bool))})" if wrong else ""
    )


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

    if path.suffix.lower() in parquet_suffixes and not has_geometry(path):
        return _from_table(_numbered(_read_parquet(path)), problems)
    table = _numbered(read_vector(path, "points"))
    if not hasattr(table, "geometry"):
        return _from_table(pd.DataFrame(table), problems)
    empty = table.geometry.isna() | table.geometry.is_empty
    kinds = sorted(set(table.geometry[~empty].geom_type) - {"Point"})
    if kinds == ["Polygon"] and "identifier" in table.columns:
        from m3etl.io.m3leo import tiles_as_points

        tiles = tiles_as_points(table, path)
        return tiles.lon, tiles.lat, _numbered(tiles.columns)
    if kinds:
        problems.append(f"features must be points, not {', '.join(kinds)}")
        return np.zeros(0), np.zeros(0), pd.DataFrame()
    geometry = lonlat_geometry(table.geometry, problems)
    columns = pd.DataFrame(table.drop(columns=table.active_geometry_name))
    return geometry.x.to_numpy(dtype=np.float64), geometry.y.to_numpy(dtype=np.float64), columns


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(
            f"cannot read points from {path}: {error}", hint=f"Check that the file is whole. {wanted}"
        ) from error


def _numbered(table: Any) -> Any:
    """The table with row numbers from one as its index."""
    return table.set_axis(np.arange(1, len(table) + 1), axis=0)


def _check_coordinates(lon: Floats, lat: Floats, where: _Places, problems: list[str]) -> None:
    missing = np.isnan(lon) | np.isnan(lat)
    if missing.any():
        problems.append(f"{missing.sum()} points have no coordinates ({where(missing)})")
    impossible = (np.abs(lon) > 180.0) | (np.abs(lat) > 90.0)
    if impossible.any():
        problems.append(f"{impossible.sum()} points are not within -180..180 and -90..90 ({where(impossible)})")


def _iso_dates(column: pd.Series[Any], where: _Places, problems: list[str]) -> pd.Series[Any]:
    """Dates and times as `YYYY-MM-DDTHH:MM:SSZ`; times without a zone are UTC, empty ones stay missing."""
    if pd.api.types.is_numeric_dtype(column) and column.notna().any():
        problems.append("column date holds numbers; write dates as 2019-07-31 or 2019-07-31T10:15:00Z")
        return column
    given = column.notna() & (column.astype(str).str.strip() != "")
    moments = pd.to_datetime(column.where(given), utc=True, errors="coerce", format="ISO8601")
    wrong = (given & moments.isna()).to_numpy()
    if wrong.any():
        example = column[wrong].iloc[0]
        problems.append(f"{wrong.sum()} dates are not ISO 8601, such as {str(example)!r} ({where(wrong)})")
    return moments.dt.strftime("%Y-%m-%dT%H:%M:%SZ").astype(object).where(moments.notna(), None)
