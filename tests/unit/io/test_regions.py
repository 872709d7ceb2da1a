"""Shipped regions: all seven, disjoint, with land; own files by path; unknown names list the known ones."""

from __future__ import annotations

import json
import tomllib
from itertools import combinations
from pathlib import Path

import pytest

import m3etl
from m3etl.errors import InputError
from m3etl.io.regions import describe_regions, read_region, region_names, shipped_regions

square = {"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]]}


def test_the_six_regions_of_m3leo_and_the_globe():
    assert region_names() == ("china", "conus", "europe", "middleeast", "pakin", "southamerica", "globe")
    for name in region_names():
        assert read_region(name).name == name
        assert len(read_region(name).title) > 3


def test_every_outline_says_that_it_is_our_own():
    folder = Path(m3etl.__file__).parent.parent / "regions"
    for region in shipped_regions():
        assert "our own" in region.description
        document = tomllib.loads((folder / f"{region.name}.toml").read_text(encoding="utf-8"))
        assert document["description"].strip() == region.description.strip()


def test_no_two_regions_overlap():
    for first, second in combinations(shipped_regions(), 2):
        assert first.geometry.intersection(second.geometry).area == 0.0, (first.name, second.name)


@pytest.mark.parametrize(
    ("name", "lon", "lat"),
    [
        ("europe", 9.5, 56.0),
        ("conus", -122.4, 37.8),
        ("conus", -70.5, 44.0),
        ("middleeast", 44.4, 33.3),
        ("pakin", 77.2, 28.6),
        ("china", 104.0, 30.6),
        ("southamerica", -70.6, -33.4),
        ("southamerica", -74.1, 4.6),
        ("globe", 0.0, -75.0),
    ],
)
def test_known_places_lie_in_their_region(name: str, lon: float, lat: float):
    assert read_region(name).contains_lonlat([lon], [lat]).tolist() == [True]
    assert not any(region.contains_lonlat([lon], [lat])[0] for region in shipped_regions() if region.name != name)


def test_rows_for_the_command_line():
    rows = describe_regions()
    assert [row["name"] for row in rows] == list(region_names())
    assert all(row["area_km2"] > 1e6 for row in rows)
    row = describe_regions("southamerica")[0]
    assert row["polygons"] == 3
    assert "Andes" in row["title"]


def test_own_files_are_regions(tmp_path: Path):
    own = tmp_path / "mine.toml"
    own.write_text('name = "mine"\npolygons = [[[0, 0], [1, 0], [1, 1]]]\n')
    assert read_region(str(own)).name == "mine"
    feature = {"type": "Feature", "properties": {}, "geometry": square}
    (tmp_path / "field.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    region = read_region(str(tmp_path / "field.geojson"))
    assert region.name == "field"
    assert region.contains_lonlat([1.0, 3.0], [1.0, 1.0]).tolist() == [True, False]


def test_unknown_names_and_broken_files_are_told(tmp_path: Path):
    with pytest.raises(InputError, match="no region 'atlantis'") as caught:
        read_region("atlantis")
    assert "europe" in caught.value.hint
    with pytest.raises(InputError, match="no such file"):
        read_region(str(tmp_path / "absent.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("name =\n")
    with pytest.raises(InputError, match=r"broken\.toml.*line 1"):
        read_region(str(broken))
    points = tmp_path / "points.geojson"
    points.write_text(
        json.dumps({"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [1, 2]}})
    )
    with pytest.raises(InputError, match="only polygons"):
        read_region(str(points))
