"""Reads the tiles and splits that M3LEO publishes: `<aoi>_partitions_aschips_<hash>.geojson` and `..._splits_*.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from m3etl.errors import InputError
from m3etl.spec.m3leo import tile_ids
from m3etl.spec.splits import split_names

if TYPE_CHECKING:
    import geopandas

    from m3etl.io.points import PointTable

_aliases = {"validation": "val", "valid": "val", "training": "train", "testing": "test"}
_shown = 5


def read_m3leo_tiles(path: Path) -> PointTable:
    """The centres of the tiles of a GeoJSON file, with the column `identifier` and the file's other columns.

    Raises InputError with every problem: an unreadable file, no identifiers, features that are no rectangles,
    identifiers that are not those of their rectangles.
    """
    from m3etl.io.ecoregions import read_vector

    return tiles_as_points(read_vector(path, "tiles"), path)


def tiles_as_points(table: geopandas.GeoDataFrame, path: Path) -> PointTable:
    """The tiles of a table that was read already."""
    from m3etl.io.points import PointTable

    problems: list[str] = []
    if not hasattr(table, "geometry") or "identifier" not in table.columns:
        raise _no_tiles(path, [f"it has no column identifier (columns: {', '.join(map(str, table.columns))})"])
    if len(table) == 0:
        raise _no_tiles(path, ["it holds no tiles"])
    bounds = shapely.bounds(np.asarray(table.geometry.array))
    if not np.isfinite(bounds).all():
        raise _no_tiles(path, ["some features have no geometry"])
    rectangle = bounds[:, [2, 3]] - bounds[:, [0, 1]]
    area = shapely.area(np.asarray(table.geometry.array))
    skewed = np.abs(area - rectangle.prod(axis=1)) > 1e-3 * area
    if skewed.any():
        problems.append(f"{int(skewed.sum())} features are no rectangles ({_rows(skewed)})")
    else:
        named = table["identifier"].astype(str).to_numpy()
        wrong = np.asarray(tile_ids(bounds), dtype=object) != named
        if wrong.any():
            problems.append(f"{int(wrong.sum())} identifiers are not those of their rectangles ({_rows(wrong)})")
    if problems:
        raise _no_tiles(path, problems)
    centre = (bounds[:, [0, 1]] + bounds[:, [2, 3]]) / 2
    columns = pd.DataFrame(table.drop(columns=table.active_geometry_name))
    return PointTable(lon=centre[:, 0], lat=centre[:, 1], columns=columns.reset_index(drop=True))


def read_m3leo_splits(path: Path) -> pd.DataFrame:
    """The columns identifier and split (train, val, test or buffer) of a CSV, one row per tile; others are kept.

    Raises InputError with every problem: no such columns, identifiers twice, splits that are none.
    """
    try:
        table = pd.read_csv(path, dtype={"identifier": str})
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read splits from {path}: {error}") from error
    problems = [f"it has no column {name}" for name in ("identifier", "split") if name not in table.columns]
    if not problems:
        table = table.assign(split=normal_splits(table["split"], problems))
        twice = table["identifier"].duplicated().to_numpy()
        if twice.any():
            problems.append(f"{int(twice.sum())} identifiers occur twice ({_rows(twice)})")
    if problems:
        raise InputError(
            f"{path} is no list of splits: " + "; ".join(problems),
            hint="Give a CSV with the columns identifier and split, the latter train, val or test.",
        )
    return table


def with_splits(points: PointTable, splits: pd.DataFrame) -> PointTable:
    """The points with the split of their identifier. Raises InputError where some have none."""
    from m3etl.io.points import PointTable

    if "identifier" not in points.columns:
        raise InputError(
            "the points have no column identifier to find their splits by",
            hint="Splits of a file belong to points with the column identifier, as the tiles of M3LEO have it.",
        )
    found = points.columns["identifier"].astype(str).map(splits.set_index("identifier")["split"])
    missing = found.isna().to_numpy()
    if missing.any():
        raise InputError(
            f"{int(missing.sum())} of {len(found)} points have no split in the file ({_rows(missing)})",
            hint="Use the split file that belongs to these tiles.",
        )
    return PointTable(lon=points.lon, lat=points.lat, columns=points.columns.assign(split=found.to_numpy()))


def normal_splits(column: pd.Series[Any], problems: list[str]) -> pd.Series[Any]:
    """The same splits under our names; what is none goes to `problems`."""
    names = column.astype("string").str.strip().str.lower().replace(_aliases)
    wrong = ~names.isin(split_names).fillna(False).to_numpy(dtype=bool)
    if wrong.any():
        example = column[wrong].iloc[0]
        problems.append(f"{int(wrong.sum())} splits are none of {', '.join(split_names)}: {example!r} ({_rows(wrong)})")
    return names.astype(object)


def _rows(flags: Any) -> str:
    numbers = np.flatnonzero(flags) + 1
    more = f" and {len(numbers) - _shown} more" if len(numbers) > _shown else ""
    return "row " + ", ".join(map(str, numbers[:_shown].tolist())) + more


def _no_tiles(path: Path, problems: list[str]) -> InputError:
    return InputError(
        f"{path} holds no tiles of M3LEO: " + "; ".join(problems),
        hint="Take the file <aoi>_partitions_aschips_<hash>.geojson of the data set.",
    )
