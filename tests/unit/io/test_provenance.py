"""Provenance: one file a shard, the same bytes for the same rows, types that hold when a column is empty."""

from __future__ import annotations

import pytest

from m3etl.errors import DamagedError, InputError
from m3etl.io.provenance import ProvenanceRow, provenance_file, read_provenance, schema, write_provenance


def row(chip_id: str, **values) -> ProvenanceRow:
    default = {
        "chip_id": chip_id,
        "array": "worldcover",
        "scene_ids": ("ESA/WorldCover/v100/2020",),
        "time": 1577836800000,
        "gap_days": None,
        "valid_fraction": 0.5,
        "cloud_fraction": None,
        "checksum": "00",
        "status": "ok",
        "origin": "planet",
        "license": "CC-BY-4.0",
    }
    return ProvenanceRow(**{**default, **values})


def test_rows_come_back_in_order_of_shard(tmp_path):
    write_provenance(tmp_path / "p", 11, [row("c")])
    write_provenance(tmp_path / "p", 2, [row("a"), row("b", time=None, scene_ids=())])
    found = read_provenance(tmp_path / "p")
    assert found["chip_id"].tolist() == ["a", "b", "c"]
    assert list(found.columns) == schema.names
    assert found["time"].isna().tolist() == [False, True, False]
    assert str(found["time"].dt.tz) == "UTC"
    assert read_provenance(tmp_path / "p", [11])["chip_id"].tolist() == ["c"]


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_provenance(tmp_path / name, 0, [row("a"), row("b")])
    assert provenance_file(tmp_path / "one", 0).read_bytes() == provenance_file(tmp_path / "two", 0).read_bytes()


def test_nothing_yet_is_an_empty_table(tmp_path):
    found = read_provenance(tmp_path / "absent")
    assert len(found) == 0
    assert list(found.columns) == schema.names


def test_a_damaged_file_is_named(tmp_path):
    write_provenance(tmp_path, 0, [row("a")])
    path = provenance_file(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedError, match="shard-000000"):
        read_provenance(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_provenance(tmp_path, 0, [row("a")])
    before = provenance_file(tmp_path, 0).read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space"):
        write_provenance(tmp_path, 0, [row("b")])
    assert provenance_file(tmp_path, 0).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
