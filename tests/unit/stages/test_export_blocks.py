"""Wall-to-wall exports: neighbours share a request, and whatever becomes of blocks the data set is the same."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes.earth import FakeEarth, fraction, install
from pyproj import Transformer

from m3etl.campaign import (
    Campaign,
    CampaignConfig,
    ExportConfig,
    SampleConfig,
    StoreConfig,
    create_campaign,
    open_campaign,
)
from m3etl.errors import AuthenticationError, InputError
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.plan import write_plan
from m3etl.io.provenance import read_provenance
from m3etl.stages.export import run_export
from m3etl.stages.summary import SilentProgress

chip_px, cell_m = 16, 160


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


def make_plan(wide: int, high: int, holes: tuple[int, ...] = ()) -> pd.DataFrame:
    """Neighbours from the corner of a block on."""
    number = np.array([item for item in range(wide * high) if item not in holes])
    column, row = 3000 + number % wide, 33_000 + number // wide
    lonlat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    lon, lat = lonlat.transform((column + 0.5) * cell_m, (row + 0.5) * cell_m)
    return pd.DataFrame(
        {
            "chip_id": [f"32632-{cell_m:04d}-{x:04d}-{y:04d}" for x, y in zip(column, row, strict=True)],
            "row": -1,
            "generation": -1,
            "epsg": 32632,
            "xmin": column * 160.0,
            "ymin": row * 160.0,
            "xmax": (column + 1) * 160.0,
            "ymax": (row + 1) * 160.0,
            "lon": lon,
            "lat": lat,
            "biome": 1,
            "ecoregion": 10,
            "realm": "R",
            "region": "globe",
            "year": 2017 + number % 4,
            "split": "train",
            "reserve": False,
        }
    )


def make_campaign(path: Path, plan: pd.DataFrame, **export) -> Campaign:
    config = CampaignConfig(
        sample=SampleConfig(chip_px=chip_px, strategy="grid", seed=5),
        export=replace(ExportConfig(requests_per_second=5000.0), **export),
        store=StoreConfig(shard_chips=16),
    )
    campaign = create_campaign(path, config)
    write_plan(campaign.plan_path, plan)
    return campaign


def export(campaign: Campaign, earth: FakeEarth):
    return run_export(open_campaign(campaign.root), session=earth, progress=SilentProgress(), base_wait_s=0.002)


def content(root: Path) -> dict[str, bytes]:
    files = [root / "chips.parquet"]
    for name in ("chips.zarr", "provenance"):
        files += [path for path in (root / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = make_campaign(tmp_path_factory.mktemp("undisturbed") / "c", make_plan(12, 8, holes=(5, 40, 41)))
        earth = FakeEarth()
        summary = export(campaign, earth)
    assert summary.done == 93
    assert earth.calls["pixels"] == 2, "one full block and one half full"
    assert earth.requests <= 6
    return content(campaign.root)


def refused(kind, request, number):
    """No block is ever answered: every chip comes alone."""
    return Failure(kind=Kind.TOO_LARGE, message="memory") if kind == "pixels" and request.members else None


def mixed(kind, request, number):
    """Blocks fail for every reason there is, chips only for reasons that pass."""
    if kind != "pixels":
        return None
    key = request.job.chip.chip_id
    reasons = [Kind.TOO_LARGE, Kind.DETERMINISTIC, Kind.TRANSIENT, Kind.RATE, Kind.NETWORK]
    if request.members:
        reason = reasons[int(fraction(key, number) * 5)]
        return Failure(kind=reason, message="injected") if fraction(key, "fails") < 0.7 else None
    return Failure(kind=Kind.TRANSIENT, message="injected") if number == 1 and fraction(key) < 0.3 else None


@pytest.mark.parametrize("trouble", [refused, mixed])
def test_whatever_becomes_of_blocks_the_data_is_the_same(undisturbed, tmp_path, trouble):
    campaign = make_campaign(tmp_path / "c", make_plan(12, 8, holes=(5, 40, 41)), max_attempts=3)
    summary = export(campaign, FakeEarth(trouble=trouble))
    assert (summary.done, summary.failed) == (93, 0)
    assert content(campaign.root) == undisturbed


def test_a_run_broken_off_between_blocks_goes_on(undisturbed, tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(12, 8, holes=(5, 40, 41)), max_in_flight=1)
    with pytest.raises(AuthenticationError):
        export(campaign, Once())
    again = FakeEarth()
    export(campaign, again)
    assert again.calls["pixels"] == 1, "the other block is not fetched again"
    assert again.calls["plan"] == 0
    assert content(campaign.root) == undisturbed


class Once(FakeEarth):
    """Answers one pixel request, then the login is gone."""

    def compute_pixels(self, request) -> bytes:
        if self.calls["pixels"] >= 1:
            self.trouble = lambda *_: Failure(kind=Kind.AUTH, message="expired", status=401)
        return super().compute_pixels(request)


def test_one_chip_at_a_time_where_blocks_are_not_wanted(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(4, 4), block_chips=1)
    earth = FakeEarth()
    export(campaign, earth)
    assert earth.calls["pixels"] == 16
    anchors = read_provenance(campaign.provenance_path)
    scenes = anchors[anchors["array"] == "sentinel2_cloud"]["scene_ids"].map(tuple)
    assert len(set(scenes)) == 16
    with campaign.config_path.open("rb") as file:
        assert tomllib.load(file)["export"]["block_chips"] == 1


def test_a_side_that_no_block_has_is_refused(tmp_path):
    with pytest.raises(InputError, match="block_chips is 3"):
        export(make_campaign(tmp_path / "c", make_plan(2, 2), block_chips=3), FakeEarth())


def test_answers_in_memory_are_bounded_by_the_configuration(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(8, 8), max_in_flight_mb=1)
    earth = FakeEarth()
    export(campaign, earth)
    assert earth.calls["pixels"] == 16, "blocks are smaller where less may be in memory"
