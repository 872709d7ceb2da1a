"""chips.parquet: exact columns and types, true footprints, user columns, equal bytes, and damage that is told."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from m3etl.errors import DamagedError, InputError
from m3etl.io import plan as plan_module
from m3etl.io.plan import (
    PlanWriter,
    cells_of_rows,
    chip_id_array,
    count_plan,
    extra_types,
    iterate_plan,
    iterate_tables,
    plan_types,
    read_footprints,
    read_plan,
    read_stored,
    write_plan,
)
from m3etl.spec.lattice import Cells, cells_of_lonlat


def plan_at(lon: list[float], lat: list[float], **extra: object) -> pd.DataFrame:
    cells, _ = cells_of_lonlat(np.array(lon), np.array(lat), 1280)
    return plan_of(cells, **extra)


def plan_of(cells: Cells, **extra: object) -> pd.DataFrame:
    count = len(cells)
    centre_lon, centre_lat = cells.centre_lonlat
    west, south, east, north = cells.bounds_xy
    columns = {
        "chip_id": cells.chip_ids(),
        "row": np.full(count, -1),
        "generation": np.full(count, -1),
        "epsg": cells.epsg,
        "xmin": west,
        "ymin": south,
        "xmax": east,
        "ymax": north,
        "lon": centre_lon,
        "lat": centre_lat,
        "biome": np.arange(count) % 14,
        "ecoregion": np.arange(count) + 100,
        "realm": ["Palearctic"] * count,
        "region": ["globe"] * count,
        "year": np.full(count, 2018),
        "split": ["train"] * count,
        "reserve": np.arange(count) % 2 == 1,
    }
    return pd.DataFrame({**columns, **extra})


def test_columns_types_and_values_survive(tmp_path: Path):
    plan = plan_at(
        [9.0, -60.5, 30.0], [47.0, -10.0, 70.0], label=[1.5, np.nan, 3.0], note=["a", None, "c"], mixed=[1, "x", None]
    )
    write_plan(tmp_path / "chips.parquet", plan)
    schema = pq.read_schema(tmp_path / "chips.parquet")
    assert schema.names == [*plan_types, "label", "note", "mixed", "geometry"]
    assert all(schema.field(name).type == kind for name, kind in plan_types.items())
    again = read_plan(tmp_path / "chips.parquet")
    assert isinstance(again, geopandas.GeoDataFrame)
    for name in plan_types:
        assert again[name].tolist() == plan[name].tolist(), name
    assert again["label"].tolist()[::2] == [1.5, 3.0]
    assert np.isnan(again["label"][1])
    assert again["note"].isna().tolist() == [False, True, False]
    assert again["mixed"].tolist()[:2] == ["1", "x"]


def test_it_is_geoparquet_with_true_footprints(tmp_path: Path):
    path = tmp_path / "chips.parquet"
    write_plan(path, plan_at([9.0, -60.5], [47.0, -10.0]))
    foreign = geopandas.read_parquet(path)
    assert foreign.crs.equals("OGC:CRS84")
    for chip in foreign.itertuples():
        corners = geopandas.GeoSeries([shapely.box(chip.xmin, chip.ymin, chip.xmax, chip.ymax)], crs=chip.epsg)
        expected = corners.to_crs("OGC:CRS84").iloc[0]
        assert chip.geometry.symmetric_difference(expected).area < 1e-9 * expected.area
        assert shapely.is_ccw(chip.geometry.exterior)
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon", "MultiPolygon"]


def test_a_chip_on_the_antimeridian_is_cut_in_two(tmp_path: Path):
    cells = Cells(cell_m=1280, epsg=np.full(8, 32601), column=np.arange(126, 134), row=np.full(8, 10))
    write_plan(tmp_path / "chips.parquet", plan_of(cells))
    shapes = read_plan(tmp_path / "chips.parquet").geometry
    assert (shapes.geom_type == "MultiPolygon").sum() == 1
    assert shapes.total_bounds[[0, 2]].tolist() == [-180.0, 180.0]
    assert shapes.is_valid.all()
    areas = shapely.area(shapes.to_numpy())
    assert np.ptp(areas) < 1e-3 * areas.mean()


def test_equal_plans_give_equal_bytes_and_a_rewrite_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan_module, "batch_rows", 7)
    cells = Cells(cell_m=1280, epsg=np.full(30, 32632), column=np.arange(300, 330), row=np.full(30, 4000))
    plan = plan_of(cells, label=np.arange(30))
    write_plan(tmp_path / "a.parquet", plan)
    write_plan(tmp_path / "b.parquet", plan.copy())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    write_plan(tmp_path / "b.parquet", read_plan(tmp_path / "a.parquet"))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_batches_and_counts_without_the_geometry(tmp_path: Path):
    path = tmp_path / "chips.parquet"
    cells = Cells(cell_m=1280, epsg=np.full(25, 32632), column=np.arange(300, 325), row=np.full(25, 4000))
    write_plan(path, plan_of(cells, label=np.arange(25)))
    batches = list(iterate_plan(path, rows=10))
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert list(batches[0].columns) == [*plan_types, "label"]
    assert pd.concat(batches)["chip_id"].tolist() == cells.chip_ids()
    assert list(next(iterate_plan(path, ["chip_id", "row"])).columns) == ["chip_id", "row"]
    assert count_plan(path) == 25
    few = read_plan(path, ["chip_id", "lon"])
    assert list(few.columns) == ["chip_id", "lon"]


def test_an_empty_plan_can_be_written_and_read(tmp_path: Path):
    write_plan(tmp_path / "chips.parquet", plan_at([], []))
    assert len(read_plan(tmp_path / "chips.parquet")) == 0


def test_wrong_plans_are_refused_before_anything_is_written(tmp_path: Path):
    plan = plan_at([9.0, 9.0], [47.0, 47.0])
    with pytest.raises(ValueError, match="occurs twice"):
        write_plan(tmp_path / "chips.parquet", plan)
    with pytest.raises(ValueError, match="lacks the columns biome, split"):
        write_plan(tmp_path / "chips.parquet", plan.drop(columns=["biome", "split"]))
    assert list(tmp_path.iterdir()) == []


def test_absent_damaged_foreign_and_unwritable_plans_are_told(tmp_path: Path):
    with pytest.raises(InputError, match="no plan") as caught:
        read_plan(tmp_path / "chips.parquet")
    assert "m3etl sample" in caught.value.hint
    path = tmp_path / "chips.parquet"
    write_plan(path, plan_at([9.0], [47.0]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedError, match="cannot read"):
        read_plan(path)
    pd.DataFrame({"chip_id": ["x"]}).to_parquet(path)
    with pytest.raises(DamagedError, match="lacks the columns row"):
        count_plan(path)
    with pytest.raises(InputError, match="cannot write"):
        write_plan(tmp_path / "absent" / "chips.parquet", plan_at([9.0], [47.0]))


def test_row_groups_are_written_one_by_one_and_make_the_same_plan(tmp_path: Path):
    cells = Cells(cell_m=1280, epsg=np.full(25, 32632), column=np.arange(300, 325), row=np.full(25, 4000))
    write_plan(tmp_path / "whole.parquet", plan_of(cells, label=np.arange(25)))
    with PlanWriter(tmp_path / "parts.parquet", extra_types(tmp_path / "whole.parquet")) as writer:
        for table in iterate_tables(tmp_path / "whole.parquet", rows=10):
            assert cells_of_rows(table).cell_m == 1280
            writer.write(table)
        assert not (tmp_path / "parts.parquet").exists()
    assert writer.rows == 25
    parts, whole = read_plan(tmp_path / "parts.parquet"), read_plan(tmp_path / "whole.parquet")
    pd.testing.assert_frame_equal(pd.DataFrame(parts), pd.DataFrame(whole))
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups == 3


def test_missing_extra_columns_are_null_and_the_footprint_is_made(tmp_path: Path):
    path = tmp_path / "chips.parquet"
    write_plan(path, plan_at([9.0], [47.0], label=[3]))
    old = next(iterate_tables(path))
    write_plan(path, plan_at([10.0], [48.0]))
    new = next(iterate_tables(path)).drop_columns(["geometry"])
    with PlanWriter(path, {"label": pa.int64()}) as writer:
        writer.write(old)
        writer.write(new)
    plan = read_plan(path)
    assert plan["label"].isna().tolist() == [False, True]
    with pytest.raises(ValueError, match="lacks the columns row, year"):
        PlanWriter(path).prepared(new.drop_columns(["year", "row"]))
    assert shapely.contains_xy(plan.geometry.to_numpy(), plan["lon"], plan["lat"]).all()


def test_a_plan_that_breaks_off_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "chips.parquet"
    write_plan(path, plan_at([9.0], [47.0]))
    before = path.read_bytes()
    rows = next(iterate_tables(path))

    def write_and_break_off() -> None:
        with PlanWriter(path) as writer:
            writer.write(rows)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_break_off()
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["chips.parquet"]


@pytest.mark.parametrize("cell_m", [10, 320, 1280, 4480, 50_000])
def test_chip_ids_are_the_same_with_and_without_objects(cell_m: int):
    lon, lat = np.array([9.0, -60.5, -179.9, 3.1]), np.array([47.0, -10.0, 83.0, 0.0001])
    cells, _ = cells_of_lonlat(lon, lat, cell_m)
    assert chip_id_array(cells).to_pylist() == cells.chip_ids()


def test_stored_chips_are_read_without_their_geometry(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "batch_rows", 7)
    plan = plan_at([10 + 0.1 * number for number in range(40)], [47.0] * 40, label=list(range(40)))
    plan["row"] = np.where(np.arange(40) % 3 == 0, np.arange(40), -1)
    write_plan(tmp_path / "chips.parquet", plan)
    whole = read_plan(tmp_path / "chips.parquet")
    expected = pd.DataFrame(whole[whole["row"] >= 0].drop(columns="geometry")).reset_index(drop=True)
    pd.testing.assert_frame_equal(read_stored(tmp_path / "chips.parquet"), expected)
    few = read_stored(tmp_path / "chips.parquet", ["label"])
    pd.testing.assert_frame_equal(few, expected[["label", "row"]])
    write_plan(tmp_path / "chips.parquet", plan.assign(row=-1))
    assert read_stored(tmp_path / "chips.parquet", ["split"]).empty


def test_a_few_footprints_are_read_by_their_places(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "batch_rows", 7)
    lon = [179.99, *[10 + 0.1 * number for number in range(29)]]
    write_plan(tmp_path / "chips.parquet", plan_at(lon, [47.0] * 30))
    geometry = read_plan(tmp_path / "chips.parquet").geometry
    places = [29, 0, 7, 8, 0, *np.flatnonzero(geometry.geom_type == "MultiPolygon").tolist()]
    found = read_footprints(tmp_path / "chips.parquet", places)
    assert all(shapely.equals_exact(shape, geometry[place]) for shape, place in zip(found, places, strict=True))
    assert read_footprints(tmp_path / "chips.parquet", []) == []
