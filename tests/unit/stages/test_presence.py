"""Which chip has which array: every planned chip is in the table, whatever it lacks, and counts are of observations."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from fakes.campaigns import make_campaign

from m3etl.campaign import Campaign, CampaignConfig, create_campaign
from m3etl.cli.main import run
from m3etl.errors import NothingSelectedError
from m3etl.io.plan import read_plan, write_plan
from m3etl.io.provenance import ProvenanceRow, read_provenance, write_provenance
from m3etl.io.store import open_store
from m3etl.learn.dataset import ChipDataset
from m3etl.stages.presence import find_presence


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    made = make_campaign(tmp_path / "c", count=11)
    plan = read_plan(made.plan_path)
    plan["region"] = ["europe", "china"] * (len(plan) // 2)
    away = {"xmin": 700_000.0, "xmax": 700_160.0}
    later = {**plan.iloc[0].to_dict(), **away, "chip_id": "32632-0160-0001-0001", "row": -1, "generation": -1}
    write_plan(made.plan_path, pd.concat([plan, pd.DataFrame([later])], ignore_index=True))
    return made


def test_every_planned_chip_is_there_with_what_it_has(campaign: Campaign) -> None:
    table = find_presence(campaign).table().set_index("chip_id")
    store = open_store(campaign.store_path)
    plan = read_plan(campaign.plan_path)
    assert set(table.index) == set(plan["chip_id"][~plan["reserve"]]), "an unused reserve is no chip of the set"
    for array in store.specs:
        expected = [chip_id for chip_id, has in zip(store.chip_ids, store.present(array), strict=True) if has]
        assert table.index[table[array] == "ok"].tolist() == expected
        assert (table.loc[list(set(store.chip_ids) - {""} - set(expected)), array] == "no_scene").all()
        assert 0 < len(expected) < 11, "the made campaign lacks some of each"
    assert (table.loc["32632-0160-0001-0001", list(store.specs)] == "pending").all()


def test_counts_by_region_and_split_are_those_of_the_table(campaign: Campaign) -> None:
    found = find_presence(campaign)
    table, facts = found.table(), found.facts()
    for column in ("region", "split"):
        rows = {row["array"]: row for row in facts[f"presence by {column}"]}
        assert {name: rows["(all chips)"][name] for name in table[column].unique()} == (
            table[column].value_counts().to_dict()
        )
        for array in found.arrays:
            for name, mine in table.groupby(column):
                assert rows[array][name] == (mine[array] == "ok").sum()
    counts = {row["array"]: row for row in facts["presence"]}
    for array in found.arrays:
        assert counts[array]["ok"] == (table[array] == "ok").sum()
        assert sum(count for name, count in counts[array].items() if name != "array") == len(table)
    has = table[list(found.arrays)] == "ok"
    assert facts["chips with every array"] == has.all(axis=1).sum()
    first, second = found.arrays[:2]
    for require, kept in (((first, second), has[first] & has[second]), ([(first, second)], has[first] | has[second])):
        assert len(ChipDataset(campaign.root, split=None, values="stored", require=require)) == kept.sum() > 0


def test_a_chip_that_moved_to_another_row_counts_once(campaign: Campaign) -> None:
    """It failed in the first shard and was fetched later: the record of its row counts, not the one left behind."""
    first = find_presence(campaign).table()
    moved = first["chip_id"][first["row"] == 1].item()
    plan = read_plan(campaign.plan_path)
    plan.loc[plan["chip_id"] == moved, "row"] = 11
    write_plan(campaign.plan_path, plan)
    records = read_provenance(campaign.provenance_path, [2])
    names = list(asdict(_row()))
    kept = [ProvenanceRow(**{**row, "time": None}) for row in records[names].to_dict("records")]
    added = [replace(_row(), chip_id=moved, array=name) for name in open_store(campaign.store_path).specs]
    write_provenance(campaign.provenance_path, 2, [*kept, *added])
    table = find_presence(campaign).table()
    assert len(table) == len(first)
    here = table[table["chip_id"] == moved]
    assert (here[list(open_store(campaign.store_path).specs)] == "invalid").all(axis=None)


def _row() -> ProvenanceRow:
    return ProvenanceRow(
        chip_id="", array="", scene_ids=(), time=None, gap_days=None, valid_fraction=0.0, cloud_fraction=None,
        checksum="0" * 64, status="invalid", origin="planet", license="synthetic",
    )  # fmt: skip


def test_the_command_writes_the_table_and_the_counts(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-C", str(campaign.root), "--json", "describe", "--presence"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"presence", "presence by region", "presence by split"} <= set(document)
    table = pd.read_parquet(campaign.root / "presence.parquet")
    assert len(table) == 12
    assert {"chip_id", "row", "region", "split", "year", *open_store(campaign.store_path).specs} == set(table)
    assert run(["-C", str(campaign.root), "describe"]) == 0
    assert "presence" not in capsys.readouterr().out


def test_before_the_export_there_is_nothing_to_join(tmp_path: Path) -> None:
    empty = create_campaign(tmp_path / "c", CampaignConfig())
    with pytest.raises(NothingSelectedError, match="no arrays yet"):
        find_presence(empty)
