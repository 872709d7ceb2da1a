"""Results on standard output: aligned tables, one JSON document, values as people read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m3etl.cli.options import Settings
from m3etl.cli.output import cell_text, duration_text, write_document, write_rows, write_summaries
from m3etl.stages.summary import Summary

plain = Settings(directory=Path())
as_json = Settings(directory=Path(), as_json=True)


def test_columns_are_aligned_and_numbers_stand_right(capsys):
    write_rows([{"name": "a", "chips": 5}, {"name": "longer", "chips": 12345}])
    assert capsys.readouterr().out.splitlines() == ["name     chips", "a            5", "longer  12,345"]


def test_a_row_without_a_column_shows_a_dash(capsys):
    write_rows([{"a": 1}, {"b": "x"}])
    assert capsys.readouterr().out.splitlines() == ["a  b", "1  -", "-  x"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (1234, "1234"),
        (1234567, "1,234,567"),
        (0.5, "0.5"),
        (1e-9, "1e-09"),
        (-0.0, "0"),
        (float("nan"), "-"),
        (np.float32(0.25), "0.25"),
        (np.int64(7), "7"),
        ([1, "b"], "1, b"),
        ({"x": 1}, "x 1"),
    ],
)
def test_values_are_readable(value, text):
    assert cell_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (65, "1 min 05 s"), (7500, "2 h 05 min"), (12.2 * 86_400, "12 d 4 h")],
)
def test_durations_are_readable(seconds, text):
    assert duration_text(seconds) == text


def test_json_is_one_document_without_nan(capsys):
    write_document({"a": float("nan"), "b": np.float64(2), "c": (Path("x"), np.bool_(True)), "d": np.array([1, 2])})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": 2.0, "c": ["x", True], "d": [1, 2]}


def test_a_summary_in_json_holds_counters_facts_and_earlier_stages(capsys):
    earlier = Summary(stage="sample", done=3)
    summary = Summary(
        stage="export", done=2, failed=1, errors={"timeout": 1}, facts={"requests": 3, "rate": np.float64(1)}
    )
    write_summaries(as_json, [earlier, summary])
    document = json.loads(capsys.readouterr().out)
    assert (document["stage"], document["done"], document["failed"]) == ("export", 2, 1)
    assert document["errors"] == {"timeout": 1}
    assert (document["requests"], document["rate"]) == (3, 1.0)
    assert document["earlier"][0]["stage"] == "sample"


def test_a_fact_cannot_hide_a_counter(capsys):
    write_summaries(as_json, [Summary(stage="x", done=2, facts={"done": 99})])
    assert json.loads(capsys.readouterr().out)["done"] == 2


def test_a_summary_as_text_shows_tables_and_reasons(capsys):
    summary = Summary(
        stage="export",
        done=2,
        failed=1,
        errors={"timeout": 1},
        facts={"bytes": 12345, "arrays": [{"array": "x", "valid": 0.5}]},
    )
    write_summaries(plain, [summary])
    text = capsys.readouterr().out
    assert text.startswith("export: 2 done, 1 failed in 0.0 s\n")
    assert "12,345" in text
    assert "array  valid" in text
    assert "1 x timeout" in text


def test_many_paths_stand_on_a_line_each_and_few_words_on_one(capsys):
    paths = [f"campaign/previews/array_number_{number}.png" for number in range(3)]
    write_summaries(plain, [Summary(stage="preview", done=3, facts={"pictures": paths, "splits": ["train", "val"]})])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["  splits  train, val", "  pictures", *(f"    {path}" for path in paths)]


def test_losses_of_many_arrays_are_columns_of_one_table(capsys):
    names = ("sentinel2_l2a", "sentinel1_asc", "aster_slope", "worldcover", "month")
    facts = {
        "steps": 3,
        "loss_before": dict.fromkeys(names, 2.5),
        "loss_after": dict.fromkeys(names, 0.1234),
        "val_loss_after": {"month": 0.5},
    }
    write_summaries(plain, [Summary(stage="pretrain", done=3, facts=facts)])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.startswith("sentinel1_asc"))
    assert row.split() == ["sentinel1_asc", "2.5", "0.123"]
    write_summaries(as_json, [Summary(stage="pretrain", facts=facts)])
    assert json.loads(capsys.readouterr().out)["loss_before"]["month"] == 2.5


def test_many_bytes_have_a_unit_a_person_reads(capsys):
    write_summaries(plain, [Summary(stage="export", facts={"bytes": 7_557_440, "bytes received": 12, "chips": 40_000})])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  bytes           7,557,440 (7.6 MB)",
        "  bytes received  12",
        "  chips           40,000",
    ]


def test_a_narrow_terminal_cuts_no_name(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    names = ("sentinel2_dates_cloud", "era5_precipitation")
    bands = "total_precipitation_previous_month"
    write_rows([{"array": name, "bands": bands, "units": "m", "licence": "CC-BY-4.0"} for name in names])
    text = capsys.readouterr().out
    assert all(name in text for name in names)
    assert "\u2026" not in text
