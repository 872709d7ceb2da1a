"""Reads regions: the shipped ones by name, a user's own from a TOML or vector file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np

import m3etl
from m3etl.errors import InputError
from m3etl.spec.region import Region, globe, region_from_document, region_from_geometry
from m3etl.spec.spelling import did_you_mean

_vector_suffixes = frozenset({".geojson", ".json", ".gpkg", ".shp", ".parquet", ".geoparquet", ".fgb"})


def region_names() -> tuple[str, ...]:
    """Names of the shipped regions in alphabetical order, the globe last."""
    names = {path.stem for path in _shipped_directory().glob("*.toml")}
    return (*sorted(names - {globe}), *(names & {globe}))


def read_region(name: str) -> Region:
    """The region of a shipped name, or of a TOML, GeoJSON or other vector file given by its path.

    Raises InputError for an unknown name (listing the known ones) and for a file that is no region (listing every
    problem).
    """
    if name in region_names():
        return _read_toml(_shipped_directory() / f"{name}.toml", shipped=True)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".toml" and path.is_file():
        return _read_toml(path, shipped=False)
    if path.suffix.lower() in _vector_suffixes and path.exists():
        return _read_vector_region(path)
    looks_like_a_path = path.suffix != "" or len(path.parts) > 1
    reason = ": no such file, or no TOML or vector file" if looks_like_a_path else did_you_mean(name, region_names())
    raise InputError(
        f"there is no region {name!r}{reason}",
        hint=f"Known regions: {', '.join(region_names())}. A path of a TOML or GeoJSON file names your own.",
    )


def shipped_regions() -> tuple[Region, ...]:
    """Every shipped region but the globe."""
    return tuple(read_region(name) for name in region_names() if name != globe)


def describe_regions(name: str | None = None) -> list[dict[str, Any]]:
    """A row for each shipped region, or one longer row for the region `name`."""
    if name is None:
        return [_row(read_region(known)) for known in region_names()]
    region = read_region(name)
    parts = list(getattr(region.geometry, "geoms", [region.geometry]))
    return [{**_row(region), "description": region.description, "polygons": len(parts), "source": region.source}]


def _row(region: Region) -> dict[str, Any]:
    west, south, east, north = np.round(region.geometry.bounds, 3).tolist()
    return {
        "name": region.name,
        "title": region.title,
        "area_km2": round(region.area_km2),
        "bounds_lonlat": [west, south, east, north],
    }


def _shipped_directory() -> Path:
    """`regions/` inside the installed package; in a checkout it lies beside the package."""
    package = Path(m3etl.__file__).resolve().parent
    inside = package / "regions"
    return inside if inside.is_dir() else package.parent / "regions"


def _read_toml(path: Path, *, shipped: bool) -> Region:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"cannot read the region {path}: {error}",
            hint="It needs a name and polygons, lists of [longitude, latitude]; docs/sampling.md shows one.",
        ) from error
    return region_from_document(document, path.name if shipped else str(path))


def _read_vector_region(path: Path) -> Region:
    from m3etl.io.ecoregions import lonlat_geometry, read_vector

    table = read_vector(path, "a region")
    problems: list[str] = []
    geometry = lonlat_geometry(table.geometry, problems)
    if problems:
        raise InputError(f"{path} is no region: " + "; ".join(problems), hint="Store it in longitude and latitude.")
    return region_from_geometry(path.stem, list(geometry), str(path))
