"""Point files: formats, coordinate systems, labels and dates; every problem of a file is named with its rows."""

from __future__ import annotations

from pathlib import Path

import geopandas
import pandas as pd
import pytest
import shapely

from m3etl.errors import InputError
from m3etl.io.points import read_points


def frame(crs: str = "EPSG:4326") -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(
        {"label": [1, 2], "date": ["2019-07-31", "2020-01-01T10:00:00+02:00"]},
        geometry=[shapely.Point(9.0, 47.0), shapely.Point(-60.5, -10.0)],
        crs="EPSG:4326",
    ).to_crs(crs)


@pytest.mark.parametrize("names", ["lon,lat", "Longitude,Latitude", "x,y", "lng,LAT"])
def test_csv_with_the_usual_column_names(tmp_path: Path, names: str):
    (tmp_path / "p.csv").write_text(f"site,{names},date\na,9.0,47.0,2019-07-31\nb,-60.5,-10.0,\n")
    points = read_points(tmp_path / "p.csv")
    assert (points.lon.tolist(), points.lat.tolist()) == ([9.0, -60.5], [47.0, -10.0])
    assert list(points.columns.columns) == ["site", "date"]
    assert points.columns["date"].tolist()[0] == "2019-07-31T00:00:00Z"
    assert points.columns["date"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "crs"), [("p.geojson", "EPSG:4326"), ("p.gpkg", "EPSG:32632"), ("p.parquet", "EPSG:3857")]
)
def test_vector_files_in_any_crs(tmp_path: Path, name: str, crs: str):
    path = tmp_path / name
    if path.suffix == ".parquet":
        frame(crs).to_parquet(path)
    else:
        frame(crs).to_file(path)
    points = read_points(path)
    assert points.lon == pytest.approx([9.0, -60.5], abs=1e-6)
    assert points.lat == pytest.approx([47.0, -10.0], abs=1e-6)
    assert points.columns["label"].tolist() == [1, 2]
    assert points.columns["date"].tolist() == ["2019-07-31T00:00:00Z", "2020-01-01T08:00:00Z"]


def test_plain_parquet_with_columns(tmp_path: Path):
    pd.DataFrame({"lon": [1.0], "lat": [2.0], "when": [3]}).to_parquet(tmp_path / "p.parquet")
    points = read_points(tmp_path / "p.parquet")
    assert (points.lon.tolist(), list(points.columns.columns)) == ([1.0], ["when"])


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("", ["the file is empty"]),
        ("lon,lat\n1,inf\n,2\n", ["1 points have no coordinates (line 3)", "1 points are not within", "(line 2)"]),
        ("a,b\n1,2\n", ["no columns lon and lat", "columns: a, b"]),
        ("lon,lat\n", ["no points"]),
        (
            "lon,lat,date\n1,nan,2019-01-01\nx,2,soon\n200,3,2019\n4,91,2019-13-01\n",
            [
                "2 points have no coordinates (lines 2, 3)",
                "2 points are not within",
                "lines 4, 5",
                "2 dates",
                "'soon'",
                "lines 3, 5",
            ],
        ),
        ("lon,lat,date\n1,2,20190101\n", ["holds numbers"]),
    ],
)
def test_every_problem_of_a_csv_is_named(tmp_path: Path, text: str, reasons: list[str]):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_points(tmp_path / "p.csv")
    for reason in ["p.csv", *reasons]:
        assert reason in caught.value.message


def test_other_geometries_and_unreadable_files_are_refused(tmp_path: Path):
    lines = geopandas.GeoDataFrame(
        geometry=[shapely.LineString([(0, 0), (1, 1)]), shapely.Point(0, 0)], crs="EPSG:4326"
    )
    lines.to_file(tmp_path / "p.geojson")
    with pytest.raises(InputError, match="must be points, not LineString"):
        read_points(tmp_path / "p.geojson")
    frame().to_parquet(tmp_path / "whole.parquet")
    half = (tmp_path / "whole.parquet").read_bytes()[:900]
    for name, content in (
        ("q.geojson", b"nothing"),
        ("q.parquet", b"nothing"),
        ("half.parquet", half),
        ("r.geojson", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot read points") as caught:
            read_points(tmp_path / name)
        assert "GeoParquet" in caught.value.hint
        assert "<DRIVER>" not in caught.value.message
    with pytest.raises(InputError, match="no file"):
        read_points(tmp_path / "absent.csv")


def test_lines_are_counted_over_blank_ones(tmp_path: Path):
    (tmp_path / "p.csv").write_text("lon,lat\n1,2\n\n\n3,95\n")
    with pytest.raises(InputError, match=r"\(line 5\)"):
        read_points(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("lon,lat\n1,2\n\n\n3,5\n")
    assert read_points(tmp_path / "p.csv").lat.tolist() == [2.0, 5.0]


def test_rows_with_too_many_fields_are_named(tmp_path: Path):
    (tmp_path / "p.csv").write_text('lon,lat,note\n1,2,a\n3,4,b,c\n5,6,"d, e"\n7,8,f,g,h\n')
    with pytest.raises(InputError, match=r"2 rows have more than 3 fields \(lines 3, 5\)"):
        read_points(tmp_path / "p.csv")


def test_a_table_with_more_points_than_a_plan_has_chips_is_not_read_to_its_end(tmp_path: Path, monkeypatch):
    from m3etl.io import points as module

    monkeypatch.setattr(module, "largest_table", 25)
    monkeypatch.setattr(module, "_chunk_rows", 10)
    (tmp_path / "p.csv").write_text("lon,lat\n" + "1,2\n" * 60)
    with pytest.raises(InputError, match="more than 25 points"):
        read_points(tmp_path / "p.csv")


def test_rows_of_vector_files_are_named(tmp_path: Path):
    table = geopandas.GeoDataFrame(geometry=[shapely.Point(1, 2), None, shapely.Point(3, 4)], crs="EPSG:4326")
    table.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"1 points have no coordinates \(row 2\)"):
        read_points(tmp_path / "p.parquet")
