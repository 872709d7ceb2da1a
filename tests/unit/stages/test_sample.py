"""The sample stage on a made-up world and on the real ecoregions: plans, summaries, determinism, growth, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from fakes.ecoregion_table import world_columns

from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, SplitConfig, create_campaign
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.ecoregions import read_ecoregions
from m3etl.io.plan import plan_types, read_plan, write_plan
from m3etl.stages.sample import run_sample
from m3etl.stages.summary import SilentProgress, Summary


@pytest.fixture(scope="module")
def world() -> geopandas.GeoDataFrame:
    columns = world_columns()
    geometry = columns.pop("geometry")
    renamed = {"eco_id": "ECO_ID", "name": "ECO_NAME", "biome_name": "BIOME_NAME", "realm": "REALM"}
    return geopandas.GeoDataFrame(
        {renamed[name]: values for name, values in columns.items()}, geometry=list(geometry), crs="EPSG:4326"
    )


@pytest.fixture(scope="module")
def resolve(real_data: Path) -> geopandas.GeoDataFrame:
    return read_ecoregions(real_data / "ecoregions" / "Ecoregions2017.shp")


def sampled(
    root: Path, table: geopandas.GeoDataFrame, split: SplitConfig | None = None, **options: Any
) -> tuple[Campaign, Summary, pd.DataFrame]:
    config = CampaignConfig(sample=SampleConfig(**options), split=split or SplitConfig())
    campaign = create_campaign(root, config)
    summary = run_sample(campaign, table, SilentProgress())
    return campaign, summary, read_plan(campaign.plan_path)


def own_region(folder: Path, west: float, south: float, east: float, north: float) -> str:
    path = folder / "mine.toml"
    path.write_text(
        f'name = "mine"\npolygons = [[[{west}, {south}], [{east}, {south}], [{east}, {north}], [{west}, {north}]]]\n'
    )
    return str(path)


def test_default_plan(tmp_path: Path, world: geopandas.GeoDataFrame):
    _, summary, plan = sampled(tmp_path / "c", world)
    assert list(plan.columns) == [*plan_types, "geometry"]
    planned = plan[~plan["reserve"]]
    assert planned["biome"].value_counts().sort_index().tolist() == [8] * 14
    assert summary.done == summary.facts["chips"] == 112
    assert summary.facts["reserve"] == plan["reserve"].sum()
    assert plan["chip_id"].is_unique
    assert set(plan["year"]) == {2017, 2018, 2019, 2020}
    assert set(plan["split"]) <= {"train", "val", "test", "buffer"}
    assert (plan[["row", "generation"]] == -1).all(axis=None)
    assert 204 not in set(plan["ecoregion"])
    biome = {row["biome"]: row for row in summary.facts["biomes"]}
    assert biome["Tundra"]["ecoregions"] == 2
    assert sum(row["chips"] for row in summary.facts["splits"]) == 112
    json.dumps(dict(summary.facts))


def test_same_seed_same_bytes(tmp_path: Path, world: geopandas.GeoDataFrame):
    plans = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        campaign, _, _ = sampled(tmp_path / name, world, seed=seed)
        plans.append(campaign.plan_path.read_bytes())
    assert plans[0] == plans[1] != plans[2]


def test_growing_keeps_chips_years_and_splits(tmp_path: Path, world: geopandas.GeoDataFrame):
    _, _, small = sampled(tmp_path / "a", world, chips=70)
    _, _, large = sampled(tmp_path / "b", world, chips=700)
    grown = large.set_index("chip_id").loc[small["chip_id"]]
    for name in ("year", "split", "biome", "ecoregion", "xmin"):
        assert grown[name].tolist() == small[name].tolist()


def test_fixed_chips_stay_when_the_plan_is_drawn_again(tmp_path: Path, world: geopandas.GeoDataFrame):
    campaign, _, plan = sampled(tmp_path / "c", world, chips=28)
    plan["row"] = np.where(plan.index < 5, plan.index, -1)
    plan["generation"] = np.where(plan.index < 5, 0, -1)
    write_plan(campaign.plan_path, plan)
    other = campaign.with_config(sample=replace(campaign.config.sample, seed=99))
    summary = run_sample(other, world, SilentProgress())
    again = read_plan(campaign.plan_path)
    assert again["chip_id"][:5].tolist() == plan["chip_id"][:5].tolist()
    assert again["row"][:5].tolist() == [0, 1, 2, 3, 4]
    assert summary.facts["kept as they were"] == 5
    assert not set(plan["chip_id"][5:]) & set(again["chip_id"])
    larger = campaign.with_config(sample=replace(campaign.config.sample, chip_px=448))
    with pytest.raises(InputError, match="chips of 1280 m, and 4480 m"):
        run_sample(larger, world, SilentProgress())


def test_a_region_limits_the_draw(tmp_path: Path, world: geopandas.GeoDataFrame):
    _, summary, plan = sampled(
        tmp_path / "c", world, chips=20, region=own_region(tmp_path, -168.0, -39.0, -130.0, -26.0)
    )
    assert set(plan["region"]) == {"mine"}
    assert set(plan["biome"]) == {0, 1}
    assert plan["lon"].min() > -168.0
    assert "Mangroves" in summary.facts["biomes not in the region"]


def test_chips_of_the_globe_carry_the_region_they_lie_in(tmp_path: Path):
    table = geopandas.GeoDataFrame(
        {"ECO_ID": [1, 2], "ECO_NAME": ["a", "b"], "BIOME_NAME": ["Tundra", "Mangroves"]},
        geometry=[shapely.box(8.5, 47.0, 11.5, 50.0), shapely.box(20.0, -30.0, 23.0, -25.0)],
        crs="EPSG:4326",
    )
    _, _, plan = sampled(tmp_path / "c", table, chips=10)
    assert plan.groupby("biome")["region"].unique().map(list).to_dict() == {0: ["europe"], 9: ["globe"]}
    assert set(plan["realm"]) == {""}


def test_wall_to_wall(tmp_path: Path, world: geopandas.GeoDataFrame):
    options = {"strategy": "grid", "chip_px": 448, "region": own_region(tmp_path, 13.0, -60.5, 15.0, -55.5)}
    _, summary, plan = sampled(tmp_path / "c", world, **options)
    area = summary.facts["area km2"]
    assert area == pytest.approx(len(plan) * 4.48**2, abs=1)
    assert set(plan["ecoregion"]) == {-1, 200}
    assert plan["biome"][plan["ecoregion"] == -1].unique().tolist() == [-1]
    assert not plan["reserve"].any()
    assert summary.facts["biomes"][0] == {
        "biome": "none",
        "chips": int((plan["biome"] < 0).sum()),
        "reserve": 0,
        "ecoregions": 0,
    }
    _, only, tundra = sampled(tmp_path / "d", world, biomes=(0,), **options)
    assert set(tundra["ecoregion"]) == {200}
    assert only.rejected == len(plan) - len(tundra)


def test_seams_are_reported(tmp_path: Path, world: geopandas.GeoDataFrame):
    options = {"strategy": "grid", "chip_px": 448, "region": own_region(tmp_path, 17.5, 44.0, 18.5, 47.0)}
    _, summary, plan = sampled(tmp_path / "c", world, **options)
    assert set(plan["epsg"]) == {32633, 32634}
    assert summary.facts["cells on zone seams"] > 30
    assert 0 < summary.facts["covered twice km2"] < 500
    assert 0 < summary.facts["gaps km2"] < 500


def test_points_keep_labels_and_dates(tmp_path: Path, world: geopandas.GeoDataFrame):
    file = tmp_path / "points.csv"
    file.write_text(
        "lon,lat,date,height,split\n"
        "12.0001,-59.5,2021-06-30T12:00:00+02:00,3.5,mine\n"
        "12.0002,-59.5,2021-06-30,4.5,mine\n"
        "10.5,-58.0,,5.5,\n"
        "24.0,45.0,2015-02-03,6.5,x\n"
        "25.0,45.0,2015-02-03,7.5,x\n"
        "0.0,89.0,,8.5,\n"
    )
    _, summary, plan = sampled(tmp_path / "c", world, strategy="points", points=str(file))
    assert list(plan.columns) == [*plan_types, "date", "height", "point_split", "geometry"]
    assert plan["height"].tolist() == [5.5, 7.5] or plan["height"].tolist() == [3.5, 5.5, 7.5]
    assert plan["date"].dropna().iloc[-1] == "2015-02-03T00:00:00Z"
    assert plan["year"].tolist()[-1] == 2015
    assert 2017 <= plan["year"].tolist()[-2] <= 2020
    assert summary.errors["points outside 80S-84N"] == 1
    assert summary.errors["points whose cell crosses a zone edge"] >= 1
    assert summary.done + summary.rejected == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chips": 0, "years": (2020, 2017), "seed": -1}, ["chips", "0", "2020:2017", "seed"]),
        ({"strategy": "random", "reserve_fraction": -1.0, "spacing_m": -5.0}, ["random", "reserve_", "spacing_m"]),
        ({"strategy": "points"}, ["--points"]),
        ({"points": "x.csv"}, ["strategy points"]),
        ({"strategy": "grid", "spacing_m": 10.0}, ["spacing_m belongs"]),
        ({"chips": 10**9}, ["at most"]),
        ({"years": (17, 20)}, ["1980"]),
        ({"biomes": ()}, ["no biome"]),
        ({"biomes": (3, 77)}, ["77"]),
        ({"chip_px": 100_000}, ["cell size"]),
        ({"region": "atlantis", "chips": -3}, ["atlantis", "pakin", "chips"]),
        ({"strategy": "points", "points": "absent.geojson"}, ["absent.geojson"]),
        ({"strategy": "grid"}, ["at most", "globe"]),
    ],
)
def test_wrong_requests_are_refused_and_leave_no_plan(
    tmp_path: Path, world: geopandas.GeoDataFrame, options: dict[str, Any], words: list[str]
):
    with pytest.raises(InputError) as caught:
        sampled(tmp_path / "c", world, **options)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "c" / "chips.parquet").exists()


def test_wrong_splits_are_refused(tmp_path: Path, world: geopandas.GeoDataFrame):
    with pytest.raises(InputError, match=r"add up to 1.*buffer_km"):
        sampled(tmp_path / "c", world, split=SplitConfig(train=0.9, buffer_km=70.0))


def test_nothing_selected_says_what_to_do(tmp_path: Path, world: geopandas.GeoDataFrame):
    with pytest.raises(InputError, match="none of the selected biomes"):
        sampled(tmp_path / "a", world, region=own_region(tmp_path, 0.0, 70.0, 1.0, 71.0))
    file = tmp_path / "points.csv"
    file.write_text("lon,lat\n100.0,10.0\n")
    with pytest.raises(NothingSelectedError, match="1 points outside the selected biomes") as caught:
        sampled(tmp_path / "b", world, strategy="points", points=str(file), biomes=(3,))
    assert "--biomes" in caught.value.hint
    assert not (tmp_path / "b" / "chips.parquet").exists()


def test_the_real_ecoregions(tmp_path: Path, resolve: geopandas.GeoDataFrame):
    _, summary, plan = sampled(tmp_path / "c", resolve, chips=4200, seed=6)
    planned = plan[~plan["reserve"]]
    counts = planned["biome"].value_counts()
    assert len(counts) == 14
    assert counts.max() - counts.min() <= 1
    assert summary.done == 4200
    assert plan["chip_id"].is_unique
    ice = set(resolve["eco_id"][resolve["biome_name"] == "N/A"])
    assert not ice & set(plan["ecoregion"])
    shapes = resolve.set_index("eco_id").geometry
    for eco_id, chips in plan.groupby("ecoregion"):
        assert shapely.contains_xy(shapes[eco_id], chips["lon"], chips["lat"]).all()
    covered = planned.groupby("biome")["ecoregion"].nunique()
    possible = resolve[resolve["biome_name"] != "N/A"].groupby("biome_name").size()
    # Every ecoregion that has room for a cell gets a chip: 846 of them but for a few specks of islands.
    assert covered.sum() >= possible.sum() - 25
    assert shapely.STRtree(plan.geometry.to_numpy()).query(plan.geometry.to_numpy(), predicate="overlaps").size == 0
    assert plan.geometry.geom_type.eq("Polygon").all()
    bounds = plan.geometry.bounds
    assert (bounds["maxx"] - bounds["minx"]).max() < 1.0
    assert np.bincount(plan["epsg"] // 100).nonzero()[0].tolist() == [326, 327]
