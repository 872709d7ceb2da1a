"""A small world of made-up ecoregions with known areas and shapes, as the columns that `build_ecoregions` takes."""

from __future__ import annotations

from typing import Any

import geopandas
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.spec.biomes import biome_names


def world_shapes() -> dict[int, tuple[str, BaseGeometry]]:
    """eco_id -> (biome name, polygon). Every biome has a wide ecoregion; some have awkward ones beside it."""
    shapes: dict[int, tuple[str, BaseGeometry]] = {}
    for biome, name in enumerate(biome_names):
        west, south = -170.0 + 23.0 * biome, -40.0 + 6.0 * biome
        shapes[100 + biome] = (name, shapely.box(west, south, west + 5.0, south + 5.0))
    ring = shapely.box(10.0, -60.0, 14.0, -56.0).difference(shapely.box(11.0, -59.0, 13.0, -57.0))
    sliver = shapely.Polygon([(40.0, -50.0), (52.0, -38.0), (52.0, -37.9), (40.0, -49.9)])
    islands = shapely.MultiPolygon(
        [
            shapely.box(179.0, -20.0, 180.0, -19.0),
            shapely.box(-180.0, -20.0, -179.5, -19.0),
            shapely.box(-178, -19, -177.9, -18.9),
        ]
    )
    shapes[200] = ("Tundra", ring)
    shapes[201] = ("Mangroves", sliver)
    shapes[202] = ("Mangroves", islands)
    shapes[203] = ("Mangroves", shapely.box(60.0, -30.0, 60.01, -29.99))
    shapes[204] = ("N/A", shapely.box(-60.0, -90.0, 60.0, -70.0))
    return shapes


def world_columns() -> dict[str, Any]:
    """The world as keyword arguments of `build_ecoregions`; the ice is called Rock and Ice."""
    shapes = world_shapes()
    return {
        "eco_id": list(shapes),
        "name": ["Rock and Ice" if biome == "N/A" else f"Ecoregion {key}" for key, (biome, _) in shapes.items()],
        "biome_name": [biome for biome, _ in shapes.values()],
        "realm": ["N/A" if biome == "N/A" else f"Realm {key % 3}" for key, (biome, _) in shapes.items()],
        "geometry": np.array([shape for _, shape in shapes.values()], dtype=object),
    }


def world_table() -> geopandas.GeoDataFrame:
    """The world with RESOLVE's column names, as `sample` takes it."""
    columns = world_columns()
    geometry = columns.pop("geometry")
    renamed = {"eco_id": "ECO_ID", "name": "ECO_NAME", "biome_name": "BIOME_NAME", "realm": "REALM"}
    return geopandas.GeoDataFrame(
        {renamed[name]: values for name, values in columns.items()}, geometry=list(geometry), crs="EPSG:4326"
    )
