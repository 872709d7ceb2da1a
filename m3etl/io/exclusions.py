"""Reads the places that a plan must keep away from: points, lines or polygons of files, or regions by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from m3etl.errors import InputError
from m3etl.io.points import has_geometry, parquet_suffixes, read_points, table_suffixes
from m3etl.io.regions import read_region, region_names
from m3etl.spec.exclusion import Exclusion


def read_exclusion(names: Sequence[str], buffer_km: float) -> Exclusion | None:
    """The places of all `names`, each a region's name, a region's TOML file, a CSV of points or a vector file.

    None where nothing is named. Raises InputError for an unreadable or empty file, impossible coordinates and a buffer
    that is none.
    """
    if not names:
        if buffer_km:
            raise InputError(
                "exclude_buffer_km is given, but no places to keep away from", hint="Name them with --exclude FILE."
            )
        return None
    try:
        return Exclusion(geometry=np.concatenate([_read(name) for name in names]), buffer_km=buffer_km)
    except ValueError as error:
        raise InputError(str(error), hint="Give --exclude-buffer-km in kilometres.") from error


def _read(name: str) -> npt.NDArray[np.object_]:
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if name in region_names() or suffix == ".toml":
        return np.asarray([read_region(name).geometry], dtype=object)
    if suffix in table_suffixes or (suffix in parquet_suffixes and path.is_file() and not has_geometry(path)):
        points = read_points(path)
        return np.asarray(shapely.points(points.lon, points.lat), dtype=object)
    return _read_vector_places(path)


def _read_vector_places(path: Path) -> npt.NDArray[np.object_]:
    from m3etl.io.ecoregions import lonlat_geometry, read_vector

    table = read_vector(path, "places to exclude")
    problems: list[str] = []
    if not hasattr(table, "geometry"):
        problems.append("it has no geometry")
        places = np.zeros(0, dtype=object)
    else:
        places = np.asarray(lonlat_geometry(table.geometry, problems).array, dtype=object)
        places = places[~shapely.is_missing(places) & ~shapely.is_empty(places)]
        if not len(places):
            problems.append("it holds no place")
        elif not np.isfinite(shapely.bounds(places)).all():
            problems.append("it has coordinates that are no finite numbers")
    if problems:
        raise InputError(
            f"{path} names no places to exclude: " + "; ".join(problems),
            hint="Give points, lines or polygons in longitude and latitude as GeoJSON, CSV (lon, lat) or GeoParquet.",
        )
    return places
