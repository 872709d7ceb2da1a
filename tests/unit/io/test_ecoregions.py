"""Ecoregion files: RESOLVE's columns in any form become one; anything else is refused with every reason."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from m3etl.errors import InputError
from m3etl.io.ecoregions import ecoregion_columns, normalise_ecoregions, read_ecoregions


def resolve_table(**changes: object) -> geopandas.GeoDataFrame:
    columns: dict[str, object] = {
        "ECO_ID": ["12", "3"],
        "ECO_NAME": ["Twelve", "Three"],
        "BIOME_NAME": ["Tundra", "Mangroves"],
        "REALM": ["Nearctic", None],
    }
    columns.update(changes)
    kept = {name: value for name, value in columns.items() if value is not None}
    return geopandas.GeoDataFrame(kept, geometry=[shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)], crs="EPSG:4326")


@pytest.mark.parametrize("name", ["e.shp", "e.gpkg", "e.geojson", "e.parquet"])
def test_every_format_gives_the_same_table(tmp_path: Path, name: str):
    path = tmp_path / name
    if path.suffix == ".parquet":
        resolve_table().to_parquet(path)
    else:
        resolve_table().to_file(path)
    found = read_ecoregions(path)
    assert tuple(found.columns) == ecoregion_columns
    assert found["eco_id"].tolist() == [3, 12]
    assert found["eco_name"].tolist() == ["Three", "Twelve"]
    assert found["realm"].tolist() == ["", "Nearctic"]
    assert found.geometry.iloc[0].equals(shapely.box(2, 0, 3, 1))


def test_lower_case_other_crs_and_a_missing_realm_are_fine():
    table = resolve_table(REALM=None).rename(columns=str.lower).to_crs("EPSG:3857")
    found = normalise_ecoregions(table, "x")
    assert found["realm"].tolist() == ["", ""]
    assert found.geometry.iloc[1].symmetric_difference(shapely.box(0, 0, 1, 1)).area < 1e-9
    again = normalise_ecoregions(found, "x")
    assert again.equals(found)


def test_every_problem_is_named():
    table = resolve_table(ECO_ID=["1.5", "x"], BIOME_NAME=None)
    table = table.set_geometry(geopandas.GeoSeries([shapely.Point(0, 0), shapely.box(300, 0, 301, 1)], crs="EPSG:4326"))
    with pytest.raises(InputError) as caught:
        normalise_ecoregions(table, "mine.shp")
    for expected in ("mine.shp", "'biome_name' is missing", "not Point", "whole number", "no longitude and latitude"):
        assert expected in caught.value.message
    with pytest.raises(InputError, match="no rows"):
        normalise_ecoregions(resolve_table().iloc[:0], "empty")
    with pytest.raises(InputError, match="no geometry"):
        normalise_ecoregions(resolve_table().drop(columns="geometry"), "plain")


def test_absent_and_unreadable_files_are_told(tmp_path: Path):
    with pytest.raises(InputError, match="no file"):
        read_ecoregions(tmp_path / "absent.shp")
    for name in ("broken.geojson", "broken.parquet", "broken.shp"):
        (tmp_path / name).write_text("{")
        with pytest.raises(InputError, match="cannot read ecoregions"):
            read_ecoregions(tmp_path / name)


def test_the_real_table(real_data: Path):
    found = read_ecoregions(real_data / "ecoregions" / "Ecoregions2017.shp")
    assert len(found) == 847
    assert found["eco_id"].is_unique
    assert found["eco_id"].dtype == np.int64
    assert found["eco_name"][found["biome_name"] == "N/A"].tolist() == ["Rock and Ice"]
