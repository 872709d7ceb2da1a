"""M3LEO's published files: tiles become points with their identifiers, splits are joined, and wrong files are told."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from m3etl.errors import InputError
from m3etl.io.m3leo import read_m3leo_splits, read_m3leo_tiles, with_splits
from m3etl.io.points import read_points
from m3etl.spec.m3leo import tile_ids

corners = np.array(
    [
        [-124.33567, 40.19860, -124.28366, 40.23848],
        [-124.35024, 40.23508, -124.29819, 40.27496],
        [-124.36484, 40.27155, -124.31275, 40.31143],
    ]
)


def write_tiles(path: Path, **changes: object) -> Path:
    columns = {"area_km2": [19.6] * 3, "identifier": tile_ids(corners), **changes}
    table = geopandas.GeoDataFrame(columns, geometry=list(shapely.box(*corners.T)), crs="EPSG:4326")
    table.to_file(path, driver="GeoJSON")
    return path


def test_tiles_are_read_as_their_centres(tmp_path: Path):
    path = write_tiles(tmp_path / "conus_partitions_aschips_293d95e3ee589.geojson")
    tiles = read_m3leo_tiles(path)
    assert tiles.columns["identifier"].tolist() == tile_ids(corners)
    assert tiles.lon == pytest.approx((corners[:, 0] + corners[:, 2]) / 2)
    assert tiles.lat == pytest.approx((corners[:, 1] + corners[:, 3]) / 2)
    points = read_points(path)
    assert points.lon.tolist() == tiles.lon.tolist()
    assert list(points.columns.columns) == ["area_km2", "identifier"]


def test_splits_are_joined_by_identifier(tmp_path: Path):
    names = tile_ids(corners)
    file = tmp_path / "conus_splits_60bands_angle09_60-20-20.csv"
    pd.DataFrame(
        {"identifier": names[::-1], "split": ["test", "Validation", "train"], "original_index": [2, 1, 0]}
    ).to_csv(file, index=False)
    joined = with_splits(read_m3leo_tiles(write_tiles(tmp_path / "t.geojson")), read_m3leo_splits(file))
    assert joined.columns["split"].tolist() == ["train", "val", "test"]
    pd.DataFrame({"identifier": names[:2], "split": ["test", "train"]}).to_csv(file, index=False)
    with pytest.raises(InputError, match=r"1 of 3 points have no split in the file \(row 3\)"):
        with_splits(read_points(tmp_path / "t.geojson"), read_m3leo_splits(file))


def test_digits_of_identifiers_are_no_numbers(tmp_path: Path):
    file = tmp_path / "s.csv"
    file.write_text("identifier,split\n0127000000000,train\n")
    assert read_m3leo_splits(file)["identifier"].tolist() == ["0127000000000"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("identifier\na\n", "no column split"),
        ("identifier,split\na,train\na,test\n", "1 identifiers occur twice"),
        ("identifier,split\na,train\nb,other\nc,\n", r"2 splits are none of train.*'other'.*row 2, 3"),
        ("", "cannot read splits"),
    ],
)
def test_wrong_split_files_are_told(tmp_path: Path, text: str, words: str):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_m3leo_splits(tmp_path / "s.csv")


def test_wrong_tiles_are_told(tmp_path: Path):
    with pytest.raises(InputError, match=r"1 identifiers are not those of their rectangles \(row 2\)"):
        read_m3leo_tiles(
            write_tiles(tmp_path / "a.geojson", identifier=[*tile_ids(corners)[:1], "0" * 13, tile_ids(corners)[2]])
        )
    points = geopandas.GeoDataFrame({"name": ["x"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326")
    points.to_file(tmp_path / "b.geojson", driver="GeoJSON")
    with pytest.raises(InputError, match=r"no column identifier \(columns: name"):
        read_m3leo_tiles(tmp_path / "b.geojson")
    slanted = points.assign(identifier=["0" * 13]).set_geometry([shapely.Point(0, 0).buffer(0.1)], crs="EPSG:4326")
    slanted.to_file(tmp_path / "c.geojson", driver="GeoJSON")
    with pytest.raises(InputError, match="1 features are no rectangles"):
        read_points(tmp_path / "c.geojson")
