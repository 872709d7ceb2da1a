"""Files of places to keep away from: every format, several at once, and what is refused."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from m3etl.errors import InputError
from m3etl.io.exclusions import read_exclusion
from m3etl.spec.lattice import cells_of_lonlat

places = geopandas.GeoDataFrame(
    {"site": ["a", "b"]}, geometry=[shapely.Point(9.0, 47.0), shapely.box(20.0, 10.0, 20.1, 10.1)], crs="EPSG:4326"
)


def hits(names: list[str], buffer_km: float = 0.0) -> list[bool]:
    """Which of three cells are excluded: at the point, in the box, and elsewhere in Germany."""
    exclusion = read_exclusion(names, buffer_km)
    assert exclusion is not None
    cells, _ = cells_of_lonlat(np.array([9.0, 20.05, 10.0]), np.array([47.0, 10.05, 50.0]), 1280)
    return exclusion.near(cells).tolist()


@pytest.mark.parametrize("name", ["p.geojson", "p.gpkg", "p.parquet"])
def test_vector_files(tmp_path: Path, name: str):
    path = tmp_path / name
    if path.suffix == ".parquet":
        places.to_crs("EPSG:3857").to_parquet(path)
    else:
        places.to_file(path)
    assert hits([str(path)]) == [True, True, False]


def test_tables_of_points_and_regions_and_several_at_once(tmp_path: Path):
    table = tmp_path / "p.csv"
    table.write_text("lon,lat\n9.0,47.0\n")
    assert hits([str(table)]) == [True, False, False]
    places.drop(columns="geometry").assign(lon=9.0, lat=47.0).to_parquet(tmp_path / "plain.parquet")
    assert hits([str(tmp_path / "plain.parquet")]) == [True, False, False]
    region = tmp_path / "mine.toml"
    region.write_text('name = "mine"\npolygons = [[[19, 9], [21, 9], [21, 11], [19, 11]]]\n')
    assert hits([str(region), str(table)]) == [True, True, False]
    assert hits(["europe"]) == [True, False, True]
    assert hits([str(table)], buffer_km=400.0) == [True, False, True]


def test_nothing_named_is_nothing_excluded():
    assert read_exclusion([], 0.0) is None
    with pytest.raises(InputError, match="no places"):
        read_exclusion([], 5.0)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("absent.geojson", None, "absent.geojson"),
        ("p.csv", "lon,lat\n", "no points"),
        ("p.csv", "lon,lat\n1,2\n3,99\n", "line 3"),
        ("p.geojson", '{"type": "FeatureCollection", "features": []}', "no place"),
        ("p.geojson", "{", "cannot read places to exclude"),
        ("p.toml", "name = 'x'", "polygons"),
    ],
)
def test_what_names_no_places_is_refused(tmp_path: Path, name: str, text: str | None, words: str):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_exclusion([str(tmp_path / name)], 0.0)


def test_an_impossible_buffer_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="exclude_buffer_km"):
        read_exclusion(["europe"], 1000.0)
