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
from fakes.ecoregion_table import world_table

from benchmarks.overlaps import overlapping_pairs
from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, SplitConfig, create_campaign
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.declared import keep_declarations
from m3etl.io.ecoregions import read_ecoregions
from m3etl.io.plan import plan_types, read_plan, write_plan
from m3etl.spec.m3leo import tile_ids
from m3etl.stages.labels import label_names
from m3etl.stages.sample import run_sample
from m3etl.stages.summary import SilentProgress, Summary


@pytest.fixture(scope="module")
def world() -> geopandas.GeoDataFrame:
    return world_table()


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


class Said(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_labels_named_like_an_array_are_kept_under_another_name(tmp_path: Path, world: geopandas.GeoDataFrame):
    file = tmp_path / "points.csv"
    file.write_text("lon,lat,worldcover,biome,crop\n10.5,-58.0,7,mine,rye\n25.0,45.0,8,yours,oats\n")
    config = CampaignConfig(sample=SampleConfig(strategy="points", points=str(file)))
    campaign, said = create_campaign(tmp_path / "c", config), Said()
    run_sample(campaign, world, said)
    plan = read_plan(campaign.plan_path)
    assert plan["point_worldcover"].tolist() == [7, 8]
    assert plan["point_biome"].tolist() == ["mine", "yours"]
    assert plan["crop"].tolist() == ["rye", "oats"]
    assert "worldcover" not in plan
    assert [line for line in said.lines if "worldcover as point_worldcover, biome as point_biome" in line]
    assert label_names(campaign) == ("point_worldcover", "point_biome", "crop")
    file.write_text("lon,lat,worldcover,point_worldcover\n10.5,-58.0,7,8\n")
    with pytest.raises(InputError, match="columns point_worldcover, and the same without point_"):
        run_sample(create_campaign(tmp_path / "d", config), world, said)


def test_an_array_cannot_be_declared_under_the_name_of_a_label(tmp_path: Path, world: geopandas.GeoDataFrame):
    example = Path(__file__).parents[3] / "docs" / "examples" / "palsar2.toml"
    mine = tmp_path / "mine.toml"
    mine.write_text(example.read_text().replace('name = "palsar2"', 'name = "my_radar"'))
    file = tmp_path / "points.csv"
    file.write_text("lon,lat,my_radar\n10.5,-58.0,7\n")
    campaign, _, _ = sampled(tmp_path / "c", world, strategy="points", points=str(file))
    with pytest.raises(InputError, match="declares my_radar, and a column that the points brought"):
        keep_declarations(campaign.root, mine)
    assert not (campaign.root / "modalities").exists()


def test_points_are_counted_on_the_way(tmp_path: Path, world: geopandas.GeoDataFrame):
    class Counting(SilentProgress):
        count = 0

        def advance(self, count: int = 1, **fields: Any) -> None:
            self.count += count

    file = tmp_path / "points.csv"
    file.write_text("lon,lat\n10.5,-58.0\n24.0,45.0\n")
    config = CampaignConfig(sample=SampleConfig(strategy="points", points=str(file)))
    progress = Counting()
    summary = run_sample(create_campaign(tmp_path / "c", config), world, progress)
    assert progress.count == summary.done > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chips": 0, "years": (2020, 2017), "seed": -1}, ["chips", "0", "2020:2017", "seed"]),
        ({"strategy": "random", "reserve_fraction": -1.0, "spacing_m": -5.0}, ["random", "reserve_", "spacing_m"]),
        ({"strategy": "points"}, ["--points"]),
        ({"points": "x.csv"}, ["strategy points"]),
        (
            {"strategy": "grid", "spacing_m": 10.0, "per_ecoregion": True},
            ["spacing_m belongs", "per_ecoregion belongs"],
        ),
        ({"exclude": ("absent.csv",)}, ["absent.csv"]),
        ({"exclude_buffer_km": 3.0}, ["no places"]),
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


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (SplitConfig(by="chance"), "block, bands, ecoregion, region, points"),
        (SplitConfig(by="bands", bands=60_000, angle=3.0), "bands must be within.*angle"),
        (SplitConfig(by="bands", bands=9000), "use fewer bands"),
        (SplitConfig(by="region"), "no region to hold out"),
        (SplitConfig(by="region", hold_out=("atlantis",)), "atlantis"),
        (SplitConfig(hold_out=("europe",)), "held out by"),
        (SplitConfig(by="points"), "belong to strategy points"),
        (SplitConfig(file="x.csv"), "file of splits belongs"),
    ],
)
def test_wrong_ways_to_split_are_refused(tmp_path: Path, world: geopandas.GeoDataFrame, split: SplitConfig, words: str):
    with pytest.raises(InputError, match=words):
        sampled(tmp_path / "c", world, split=split)


def test_a_region_beyond_the_grid_and_a_spacing_beyond_the_region_are_refused(
    tmp_path: Path, world: geopandas.GeoDataFrame
):
    with pytest.raises(InputError, match="outside 80S-84N"):
        sampled(tmp_path / "a", world, region=own_region(tmp_path, 0.0, 85.0, 10.0, 89.0))
    with pytest.raises(InputError, match=r"spacing of 90000 m is larger than mine, 1\d\.\d km"):
        sampled(tmp_path / "b", world, region=own_region(tmp_path, 0.0, 0.0, 0.1, 0.1), spacing_m=90_000.0)


def test_what_lies_beyond_the_grid_and_in_the_sea_is_counted(tmp_path: Path, world: geopandas.GeoDataFrame):
    region = own_region(tmp_path, 10.0, 83.0, 11.0, 85.0)
    _, summary, plan = sampled(tmp_path / "c", world, strategy="grid", chip_px=448, region=region)
    assert plan["lat"].max() <= 84.0
    assert summary.facts["outside 80S-84N km2"] == pytest.approx(111.7 * 111.3 * np.cos(np.radians(84.5)), rel=0.02)
    assert summary.facts["cells in no ecoregion (sea, ice)"] == len(plan)
    _, drawn, rows = sampled(tmp_path / "d", world, chips=900, region=own_region(tmp_path, 9.0, -61.0, 15.0, -55.0))
    outcomes = {row["outcome"]: row["count"] for row in drawn.facts["tried"]}
    assert outcomes["accepted"] >= outcomes["accepted and needed (chips and reserve)"] == len(rows) >= 900
    assert outcomes["cells that cross a zone edge"] > 0


def test_equal_numbers_per_ecoregion(tmp_path: Path, world: geopandas.GeoDataFrame):
    _, _, plan = sampled(tmp_path / "c", world, chips=180, per_ecoregion=True)
    counts = plan[~plan["reserve"]]["ecoregion"].value_counts()
    assert counts.sum() == 180
    # 18 ecoregions; the tiny one has room for one chip at most, and its share goes to others of its biome.
    assert (counts.drop([203, 109, 201, 202], errors="ignore") == 10).all()
    assert counts.get(203, 0) <= 1


def test_excluded_places_stay_free_in_every_strategy(tmp_path: Path, world: geopandas.GeoDataFrame):
    benchmark = tmp_path / "benchmark.csv"
    benchmark.write_text("lon,lat\n12.5,-58.5\n10.5,-59.5\n")
    region = own_region(tmp_path, 10.0, -60.0, 14.0, -56.0)
    common = {"region": region, "exclude": (str(benchmark),), "exclude_buffer_km": 40.0}
    points = tmp_path / "points.csv"
    points.write_text("lon,lat\n10.4,-59.4\n11.5,-56.5\n")
    for name, options in {
        "biome": {"chips": 300},
        "grid": {"strategy": "grid", "chip_px": 448},
        "points": {"strategy": "points", "points": str(points)},
    }.items():
        _, summary, plan = sampled(tmp_path / name, world, **common, **options)
        metres = geopandas.GeoSeries(plan.geometry.to_numpy(), crs="EPSG:4326").to_crs(32633)
        for lon, lat in ((12.5, -58.5), (10.5, -59.5)):
            place = geopandas.GeoSeries([shapely.Point(lon, lat)], crs="EPSG:4326").to_crs(32633).iloc[0]
            assert metres.distance(place).min() > 39_900, name
        outcomes = {row["outcome"]: row["count"] for row in summary.facts.get("tried", ())}
        counted = outcomes.get("cells near excluded places", 0) + sum(
            count for reason, count in summary.errors.items() if reason.endswith("near excluded places")
        )
        assert counted >= 1, name


def test_an_exclusion_that_leaves_nothing_is_told(tmp_path: Path, world: geopandas.GeoDataFrame):
    region = own_region(tmp_path, 10.0, -60.0, 14.0, -56.0)
    with pytest.raises(NothingSelectedError, match="cover the whole region mine"):
        sampled(tmp_path / "a", world, region=region, exclude=("globe",))
    middle = tmp_path / "middle.csv"
    middle.write_text("lon,lat\n12.0,-58.0\n")
    with pytest.raises(NothingSelectedError, match="cells near excluded places"):
        sampled(tmp_path / "b", world, region=region, exclude=(str(middle),), exclude_buffer_km=480.0)
    assert not (tmp_path / "b" / "chips.parquet").exists()


def test_added_chips_come_behind_the_others_which_stay(tmp_path: Path, world: geopandas.GeoDataFrame):
    campaign, _, before = sampled(tmp_path / "c", world, chips=28)
    addition = replace(campaign.config.sample, chips=42, years=(2021, 2022))
    summary = run_sample(campaign, world, SilentProgress(), addition=addition)
    after = read_plan(campaign.plan_path)
    pd.testing.assert_frame_equal(pd.DataFrame(after[: len(before)]), pd.DataFrame(before))
    new = after[len(before) :]
    assert (new[["row", "generation"]] == -1).all(axis=None)
    assert set(new["year"]) == {2021, 2022}
    assert after["chip_id"].is_unique
    assert summary.facts["kept as they were"] == len(before)
    planned = after[~after["reserve"]]
    assert planned["biome"].value_counts().tolist() == [5] * 14
    # A further region levels the biomes of old and new chips together, as far as the region has them.
    region = own_region(tmp_path, 9.0, -61.0, 15.0, -55.0)
    run_sample(campaign, world, SilentProgress(), addition=replace(addition, chips=10, region=region))
    last = read_plan(campaign.plan_path)
    assert len(last[~last["reserve"]]) == 80
    assert set(last["region"][len(after) :]) == {"mine"}
    assert last["split"][: len(after)].tolist() == after["split"].tolist()


def test_a_plan_grown_in_steps_is_balanced_like_one_drawn_at_once(tmp_path: Path, world: geopandas.GeoDataFrame):
    campaign, _, _ = sampled(tmp_path / "c", world, chips=10)
    for _ in range(9):
        run_sample(campaign, world, SilentProgress(), addition=campaign.config.sample)
    plan = read_plan(campaign.plan_path)
    counts = plan[~plan["reserve"]]["biome"].value_counts()
    assert counts.sum() == 100
    assert counts.max() - counts.min() <= 1
    assert plan[~plan["reserve"] & (plan["biome"] == 9)]["ecoregion"].nunique() >= 3


def test_grids_and_points_grow_by_what_is_new(tmp_path: Path, world: geopandas.GeoDataFrame):
    west = own_region(tmp_path, 10.0, -60.0, 12.0, -58.0)
    campaign, _, before = sampled(tmp_path / "c", world, strategy="grid", chip_px=448, region=west)
    whole = str(Path(own_region(tmp_path, 10.0, -60.0, 13.0, -58.0)))
    addition = replace(campaign.config.sample, region=whole)
    summary = run_sample(campaign, world, SilentProgress(), addition=addition)
    assert summary.errors["cells of the plan as it was"] == len(before)
    after = read_plan(campaign.plan_path)
    at_once, _, expected = sampled(tmp_path / "d", world, strategy="grid", chip_px=448, region=whole)
    assert set(after["chip_id"]) == set(expected["chip_id"])
    merged = after.set_index("chip_id").loc[expected["chip_id"]]
    assert merged["split"].tolist() == expected["split"].tolist()
    with pytest.raises(NothingSelectedError, match="no new chip"):
        run_sample(at_once, world, SilentProgress(), addition=at_once.config.sample)


def test_columns_of_added_points_join_those_of_the_plan(tmp_path: Path, world: geopandas.GeoDataFrame):
    first, second, third = (tmp_path / f"{name}.csv" for name in ("first", "second", "third"))
    first.write_text("lon,lat,height\n10.5,-59.5,1\n")
    second.write_text("lon,lat,height,crop\n11.5,-57.5,2.5,rye\n10.5,-59.5,9,oats\n")
    third.write_text("lon,lat,height\n13.5,-57.5,tall\n")
    campaign, _, _ = sampled(tmp_path / "c", world, strategy="points", points=str(first))
    summary = run_sample(
        campaign, world, SilentProgress(), addition=replace(campaign.config.sample, points=str(second))
    )
    plan = read_plan(campaign.plan_path)
    assert plan["height"].tolist() == [1.0, 2.5]
    assert plan["crop"].isna().tolist() == [True, False]
    assert summary.errors == {"points of the plan as it was": 1}
    with pytest.raises(InputError, match=r"height holds double in the plan and (large_)?string in the new points"):
        run_sample(campaign, world, SilentProgress(), addition=replace(campaign.config.sample, points=str(third)))
    assert len(read_plan(campaign.plan_path)) == 2


@pytest.mark.parametrize(
    ("changes", "split", "words"),
    [
        ({"strategy": "grid"}, {}, "drawn by biome, not by grid"),
        ({"chip_px": 64}, {}, "128 px a side, not 64"),
        ({"spacing_m": 5000.0}, {}, "keep 0 m apart"),
        ({"region": "europe"}, {"by": "bands", "bands": 10}, "bands across globe"),
    ],
)
def test_what_cannot_be_added_is_refused(
    tmp_path: Path, world: geopandas.GeoDataFrame, changes: dict[str, Any], split: dict[str, Any], words: str
):
    campaign, _, _ = sampled(tmp_path / "c", world, chips=14, split=SplitConfig(**split))
    before = campaign.plan_path.read_bytes()
    with pytest.raises(InputError, match=words):
        run_sample(campaign, world, SilentProgress(), addition=replace(campaign.config.sample, **changes))
    assert campaign.plan_path.read_bytes() == before


def test_a_spaced_plan_grows_on_its_own_lattice_only(tmp_path: Path, world: geopandas.GeoDataFrame):
    region = own_region(tmp_path, 9.0, -61.0, 15.0, -55.0)
    campaign, _, _ = sampled(tmp_path / "c", world, chips=20, spacing_m=20_000.0, region=region, reserve_fraction=0.0)
    with pytest.raises(InputError, match="seed 0 only"):
        run_sample(campaign, world, SilentProgress(), addition=replace(campaign.config.sample, seed=1))
    run_sample(campaign, world, SilentProgress(), addition=replace(campaign.config.sample, chips=15))
    plan = read_plan(campaign.plan_path)
    centre = geopandas.GeoSeries(geopandas.points_from_xy(plan["lon"], plan["lat"]), crs="EPSG:4326").to_crs(32633)
    distance = np.hypot(*(np.stack([centre.x, centre.y])[:, :, None] - np.stack([centre.x, centre.y])[:, None]))
    np.fill_diagonal(distance, np.inf)
    assert len(plan) == 35
    assert distance.min() >= 19_900


def test_leakage_is_reported(tmp_path: Path, world: geopandas.GeoDataFrame):
    options = {"strategy": "grid", "chip_px": 448, "region": own_region(tmp_path, 10.0, -60.0, 14.0, -57.0)}
    _, clean, plan = sampled(tmp_path / "a", world, **options, split=SplitConfig(block_km=60.0))
    assert sum(row["pairs within 5 km"] for row in clean.facts["leakage"]) == 0
    closest = clean.facts["closest chips of different splits"]
    first, _, second = closest.split(",")[0].split()
    split = plan.set_index("chip_id")["split"]
    assert split[first] != split[second]
    assert float(closest.split(", ")[1].removesuffix(" km")) >= 5.0
    _, leaky, _ = sampled(tmp_path / "b", world, **options, split=SplitConfig(block_km=60.0, buffer_km=0.0))
    assert leaky.facts["closest chips of different splits"].endswith(", 0.00 km")
    assert sum(row["pairs within 0 km"] for row in leaky.facts["leakage"]) > 50


@pytest.mark.parametrize(
    "split",
    [
        SplitConfig(by="bands", train=0.6, val=0.2, test=0.2, bands=10),
        SplitConfig(by="ecoregion", train=0.4, val=0.3, test=0.3),
        SplitConfig(by="region", hold_out=("held.toml",)),
    ],
)
def test_other_ways_to_split_a_plan(
    tmp_path: Path, world: geopandas.GeoDataFrame, split: SplitConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held.toml").write_text('name = "held"\npolygons = [[[-170, -40], [-60, -40], [-60, 0], [-170, 0]]]\n')
    _, summary, plan = sampled(tmp_path / "c", world, chips=280, split=split)
    assert {"train", "test"} <= set(plan["split"])
    assert sum(row["pairs within 5 km"] for row in summary.facts["leakage"]) == 0
    if split.by == "region":
        inside = (plan["lon"] > -170.0) & (plan["lon"] < -60.0) & (plan["lat"] > -40.0) & (plan["lat"] < 0.0)
        assert set(plan["split"][inside]) == {"test"}
        assert "test" not in set(plan["split"][~inside])
    if split.by == "ecoregion":
        assert (plan[plan["split"] != "buffer"].groupby("ecoregion")["split"].nunique() == 1).all()


def test_published_splits_are_kept_and_their_leaks_are_told(tmp_path: Path, world: geopandas.GeoDataFrame):
    corner = np.stack(np.meshgrid(10.0 + 0.06 * np.arange(8), -59.9 + 0.04 * np.arange(8)), axis=-1).reshape(-1, 2)
    bounds = np.concatenate([corner, corner + np.array([0.06, 0.04])], axis=1).round(5)
    tiles = geopandas.GeoDataFrame(
        {"identifier": tile_ids(bounds)}, geometry=list(shapely.box(*bounds.T)), crs="EPSG:4326"
    )
    tiles.to_file(tmp_path / "tiles.geojson", driver="GeoJSON")
    names = np.where(corner[:, 0] < 10.2, "train", "test")
    pd.DataFrame({"identifier": tiles["identifier"], "split": names}).to_csv(tmp_path / "splits.csv", index=False)
    _, summary, plan = sampled(
        tmp_path / "c",
        world,
        strategy="points",
        points=str(tmp_path / "tiles.geojson"),
        chip_px=448,
        split=SplitConfig(by="points", file=str(tmp_path / "splits.csv")),
    )
    kept = plan.set_index("identifier")["split"]
    assert len(kept) > 40
    assert kept.tolist() == pd.Series(names, index=tiles["identifier"])[kept.index].tolist()
    assert plan["point_split"].tolist() == plan["split"].tolist()
    assert {row["splits"]: row["pairs within 5 km"] for row in summary.facts["leakage"]}["train and test"] >= 8
    points = tmp_path / "points.csv"
    points.write_text("lon,lat,split\n10.5,-59.5,train\n11.5,-57.5,other\n")
    with pytest.raises(InputError, match="1 splits are none of"):
        sampled(tmp_path / "d", world, strategy="points", points=str(points), split=SplitConfig(by="points"))
    points.write_text("lon,lat,fold\n10.5,-59.5,train\n")
    with pytest.raises(InputError, match="no column split"):
        sampled(tmp_path / "e", world, strategy="points", points=str(points), split=SplitConfig(by="points"))


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


def test_crowded_real_ecoregions_hold_no_chip_twice(tmp_path: Path, resolve: geopandas.GeoDataFrame):
    """Hardly a cell is left free: over the edges of zones in the Alps and in Svalbard, where four zones meet on the
    equator, and on both sides of the antimeridian.
    """
    corners = [
        (5.7, 44.2, 6.3, 44.8),
        (20.5, 78.2, 21.5, 78.6),
        (29.7, -0.3, 30.3, 0.3),
        (179.7, 66.7, 180.0, 67.1),
        (-180.0, 66.7, -179.7, 67.1),
    ]
    rings = [[[west, south], [east, south], [east, north], [west, north]] for west, south, east, north in corners]
    (tmp_path / "seams.toml").write_text(f'name = "seams"\npolygons = {rings}\n')
    campaign, summary, plan = sampled(tmp_path / "c", resolve, chips=6000, region=str(tmp_path / "seams.toml"))
    assert summary.facts["missing"] > 1000, "there is room for less than was asked for"
    assert {32601, 32631, 32632, 32633, 32635, 32636, 32660, 32735, 32736} <= set(plan["epsg"])
    assert overlapping_pairs(campaign.plan_path) == 0
    shift_m = np.where(plan.index % 2, 320.0, 0.0)
    write_plan(campaign.plan_path, plan.assign(xmin=plan["xmin"] + shift_m, xmax=plan["xmax"] + shift_m))
    assert overlapping_pairs(campaign.plan_path) > 1000, "what reaches into its neighbour is seen"
