"""The demo end to end, smaller than `m3etl demo`: every stage, the special places, the figures, and a second run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3etl.campaign import ExportConfig, SampleConfig
from m3etl.io.plan import read_plan
from m3etl.spec.catalog import arrays
from m3etl.stages.demo import demo_config, run_demo, special_places
from m3etl.stages.summary import SilentProgress

small = replace(demo_config, sample=SampleConfig(chips=14, chip_px=64), export=ExportConfig(candidates=3))
overrides = ("trainer.max_steps=8", "data.batch_size=4", "trainer.validate_chips=8")


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo") / "m3etl-demo"
    return directory, run_demo(directory, config=small, overrides=overrides, progress=SilentProgress())


@pytest.mark.slow
def test_every_stage_leaves_its_figures(demonstrated):
    _directory, summary = demonstrated
    facts = summary.facts
    assert summary.failed == facts["findings of the audit"] == 0
    assert 14 <= facts["chips"] <= 14 + len(special_places)
    assert facts["modalities"] == 12
    assert 1.0 <= facts["requests per chip"] < 3.0
    assert facts["bytes received"] > 100_000
    assert {row["array"] for row in facts["valid fractions"]} == set(arrays)
    assert all(row["after"] is not None for row in facts["losses"])
    assert facts["probes"]


@pytest.mark.slow
def test_the_pictures_are_there(demonstrated):
    _directory, summary = demonstrated
    pictures = [Path(row["picture"]) for row in summary.facts["pictures"]]
    assert len(pictures) > len(arrays)
    assert all(path.stat().st_size > 1000 for path in pictures)


@pytest.mark.slow
def test_special_places_are_a_second_generation(demonstrated):
    directory, summary = demonstrated
    plan = read_plan(directory / "chips.parquet")
    special = plan[plan["case"].notna()]
    assert len(special) == len(special_places) == len(summary.facts["special places"])
    assert set(special["generation"]) <= {1, -1}
    assert set(plan.loc[plan["case"].isna() & ~plan["reserve"], "generation"]) == {0}


@pytest.mark.slow
def test_missing_orbits_and_polar_night_are_missing_and_not_zero(demonstrated):
    _directory, summary = demonstrated
    rows = {}
    for row in summary.facts["special places"]:
        rows.setdefault(row["case"], []).append(row)
    assert set(rows) == {case for case, *_ in special_places}
    for row in rows["missing orbit"]:
        assert min(row["sentinel1_asc"], row["sentinel1_desc"]) == 0.0
    for row in rows["coast"]:
        assert 0.0 < row["canopy_height"] < 1.0
    for row in rows["night-side winter"]:
        asked, found = np.datetime64(row["asked for"]), np.datetime64(row["sentinel2"])
        assert abs(found - asked) > np.timedelta64(21, "D"), "an optical image of the polar night"


@pytest.mark.slow
def test_a_second_run_changes_nothing(demonstrated):
    directory, summary = demonstrated
    before = {path: path.read_bytes() for path in (directory / "chips.zarr").rglob("*") if path.is_file()}
    again = run_demo(directory, config=small, overrides=overrides, progress=SilentProgress())
    assert {path: path.read_bytes() for path in (directory / "chips.zarr").rglob("*") if path.is_file()} == before
    assert again.facts["losses"] == summary.facts["losses"]
    assert again.facts["requests"] == summary.facts["requests"]
