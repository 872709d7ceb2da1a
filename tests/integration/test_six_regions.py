"""Ground of each of the six regions at 448 px, wall to wall, from `sample` to tensors: a campaign that grows region by
region, as a user would type it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely

from m3etl.io.plan import read_plan
from m3etl.io.regions import read_region
from m3etl.io.store import open_store
from m3etl.learn.dataset import ChipDataset
from m3etl.spec.lattice import cells_of_lonlat
from tests.integration.pipeline import m3etl

# A place in each; southamerica's is south of the equator, europe's at the edge of two zones.
places = {
    "china": (104.0, 30.6),
    "conus": (-120.5, 38.6),
    "europe": (12.0, 47.9),
    "middleeast": (43.2, 36.4),
    "pakin": (79.0, 27.2),
    "southamerica": (-70.7, -33.6),
}
held_out = "europe"
sizes = {"worldcover": 448, "coherence": 48, "biomass": 45, "built_surface": 45, "modis_vegetation": 19}


def box_of(folder: Path, name: str) -> Path:
    """A region file around the centres of the place's cell and its eastern neighbour in the same zone."""
    lon, lat = places[name]
    assert shapely.contains_xy(read_region(name).geometry, lon, lat)
    cell, _ = cells_of_lonlat(np.array([lon]), np.array([lat]), 4480)
    (x, y) = cell.centre_lonlat
    west, south, east, north = float(x[0]) - 0.01, float(y[0]) - 0.01, float(x[0]) + 0.06, float(y[0]) + 0.01
    path = folder / f"{name}-box.toml"
    ring = [[west, south], [east, south], [east, north], [west, north]]
    path.write_text(f'name = "{name}-box"\npolygons = [{ring}]\n')
    return path


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("six")
    root = folder / "c"
    first, *further = (box_of(folder, name) for name in places)
    grid = ("sample", "--strategy", "grid", "--chip-px", "448", "--years", "2020:2020", "--hold-out", held_out)
    m3etl(root, *grid, "--region", str(first))
    for path in further:
        m3etl(root, "sample", "--add", "--region", str(path))
    m3etl(root, "export", *(word for name in ("sentinel2", *sizes) for word in ("--modality", name)))
    m3etl(root, "normalize")
    m3etl(root, "describe", "--presence")
    m3etl(root, "preview")
    return root


@pytest.mark.parametrize("name", places)
def test_a_region_end_to_end(campaign: Path, name: str) -> None:
    plan = read_plan(campaign / "chips.parquet")
    mine = plan[plan["region"] == f"{name}-box"]
    assert len(mine) >= 2
    assert (mine["xmax"] - mine["xmin"] == 4480.0).all()
    assert (mine["row"] >= 0).all(), "a chip is there whatever it lacks"
    assert set(mine["split"]) <= ({"test"} if name == held_out else {"train", "val"})
    store = open_store(campaign / "chips.zarr")
    chips = ChipDataset(campaign, split=None, arrays=["sentinel2_l2a", *sizes])
    place = {str(chip_id): index for index, chip_id in enumerate(store.chip_ids[chips.rows])}
    presence = pd.read_parquet(campaign / "presence.parquet").set_index("chip_id")
    for chip_id in mine["chip_id"]:
        sample = chips[place[chip_id]]
        assert sample["sentinel2_l2a"].shape == (12, 448, 448)
        for array, side in sizes.items():
            assert sample[array].shape[-2:] == (side, side)
            assert bool(sample[f"{array}_valid"].any()) == (presence.loc[chip_id, array] == "ok")
        assert presence.loc[chip_id, "worldcover"] == "ok"
        assert presence.loc[chip_id, "sentinel2_l1c"] == "no_scene", "recorded, and no reason to drop the chip"


def test_counts_by_region_add_up(campaign: Path) -> None:
    facts = json.loads(m3etl(campaign, "--json", "describe", "--presence").stdout)
    rows = {row["array"]: row for row in facts["presence by region"]}
    chips = rows.pop("(all chips)")
    assert set(chips) - {"array"} == {f"{name}-box" for name in places}
    for row in rows.values():
        assert all(row[f"{name}-box"] <= chips[f"{name}-box"] for name in places)
    assert (campaign / "previews" / "coherence.png").stat().st_size > 1000


def test_the_audit_has_nothing_to_report(campaign: Path) -> None:
    report = json.loads(m3etl(campaign, "--json", "validate").stdout)
    assert report["findings"] == []
    assert report["done"] >= 12
