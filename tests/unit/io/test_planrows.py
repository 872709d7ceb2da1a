"""Rows go into chips.parquet and nothing else of it changes."""

from __future__ import annotations

import pandas as pd
import pyarrow.parquet as pq
import pytest

from m3etl.errors import DamagedError
from m3etl.io import planrows
from m3etl.io.plan import read_plan, write_plan
from m3etl.io.planrows import write_plan_rows
from tests.unit.stages.test_export import make_plan


def test_only_row_and_generation_change(tmp_path, monkeypatch):
    path = tmp_path / "chips.parquet"
    write_plan(path, make_plan(7, label=["x", None, "y", "z", "x", "x", "y"]))
    before, metadata = read_plan(path), pq.ParquetFile(path).schema_arrow.metadata
    given = {name: (number * 3, number % 2) for number, name in enumerate(before["chip_id"][1:])}
    monkeypatch.setattr(planrows, "batch_rows", 3)
    write_plan_rows(path, lambda chip_ids: [given.get(name, (-1, -1)) for name in chip_ids])
    after = read_plan(path)
    assert after["row"].tolist() == [-1, 0, 3, 6, 9, 12, 15]
    assert after["generation"].tolist() == [-1, 0, 1, 0, 1, 0, 1]
    rest = [name for name in before.columns if name not in ("row", "generation")]
    pd.testing.assert_frame_equal(pd.DataFrame(after[rest]), pd.DataFrame(before[rest]))
    assert pq.ParquetFile(path).schema_arrow.metadata == metadata
    assert list(tmp_path.iterdir()) == [path]


def test_a_plan_that_cannot_be_read_stays_as_it_is(tmp_path):
    path = tmp_path / "chips.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(DamagedError, match="cannot read"):
        write_plan_rows(path, lambda chip_ids: [])
    assert path.read_bytes() == b"no parquet"
    assert list(tmp_path.iterdir()) == [path]
