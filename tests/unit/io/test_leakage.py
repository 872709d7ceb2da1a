"""Leakage of a plan on disk: the same in slices as in memory, with the names of the closest pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from m3etl.io import leakage as module
from m3etl.io.leakage import read_leakage
from m3etl.io.plan import plan_types, write_plan
from m3etl.spec.lattice import Cells
from m3etl.spec.leakage import leakage_of
from m3etl.spec.splits import names_of_splits


def plan_of(split: np.ndarray, cells: Cells) -> pd.DataFrame:
    lon, lat = cells.centre_lonlat
    west, south, east, north = cells.bounds_xy
    plan = pd.DataFrame({name: np.zeros(len(cells), dtype=np.int64) for name in plan_types})
    given = {"chip_id": cells.chip_ids(), "epsg": cells.epsg, "xmin": west, "ymin": south, "xmax": east, "ymax": north}
    texts = {"realm": "", "region": "", "split": names_of_splits(split)}
    return plan.assign(**given, lon=lon, lat=lat, **texts, reserve=False)


@pytest.mark.parametrize("slice_chips", [70, 10_000])
def test_slices_give_what_memory_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_chips: int):
    monkeypatch.setattr(module, "slice_chips", slice_chips)
    generator = np.random.default_rng(1)
    place = np.unique(generator.integers(0, 120 * 900, 500))
    cells = Cells(cell_m=1280, epsg=np.full(len(place), 32632), column=300 + place % 120, row=3000 + place // 120)
    split = generator.integers(0, 4, len(cells)).astype(np.int8)
    write_plan(tmp_path / "chips.parquet", plan_of(split, cells))
    found, names = read_leakage(tmp_path / "chips.parquet", 8.0)
    lon, lat = cells.centre_lonlat
    expected = leakage_of(lon, lat, split, chip_m=1280.0, distance_km=8.0)
    assert found.pairs == expected.pairs
    assert found.count > 10
    assert found.closest_km == expected.closest_km
    ids = cells.chip_ids()
    assert names == (ids[found.closest[0]], ids[found.closest[1]])
    pair = list(found.closest)
    alone = leakage_of(lon[pair], lat[pair], split[pair], chip_m=1280.0, distance_km=8.0)
    assert alone.closest_km == expected.closest_km


def test_a_plan_of_one_split_leaks_nothing(tmp_path: Path):
    cells = Cells(cell_m=1280, epsg=np.full(3, 32632), column=np.arange(300, 303), row=np.full(3, 4000))
    write_plan(tmp_path / "chips.parquet", plan_of(np.zeros(3, dtype=np.int8), cells))
    found, names = read_leakage(tmp_path / "chips.parquet", 5.0)
    assert (found.count, names) == (0, ("", ""))
