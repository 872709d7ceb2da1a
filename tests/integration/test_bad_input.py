"""Wrong requests get one clear message, the right exit code, and change nothing; no traceback reaches the user."""

from __future__ import annotations

import os
import stat

import pytest

from tests.integration.pipeline import m3etl


def refused(folder, *arguments, code, **options):
    result = m3etl(folder, *arguments, check=False, **options)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()
    return result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "--region", "atlantis"), ("atlantis", "europe")),
        (("sample", "--biomes", "99"), ("99",)),
        (("sample", "--biomes", "Tundre"), ("Tundre", "Tundra")),
        (("sample", "--years", "2020:2017"), ("2020",)),
        (("sample", "--chips", "0"), ("chips",)),
        (("sample", "--strategy", "points"), ("--points",)),
        (("sample", "--strategy", "points", "--points", "nowhere.geojson"), ("nowhere.geojson",)),
        (("export", "--modality", "lidar"), ("lidar", "sentinel2")),
        (("pretrain", "model.sise=atto"), ("sise",)),
        (("regions", "atlantis"), ("atlantis",)),
        (("describe",), ("m3etl sample",)),
        (("upload-hf", "--repo", "not a repo", "--dry-run"), ("not a repo",)),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_one_message_and_exit_2(tmp_path, arguments, words):
    message = refused(tmp_path, *arguments, code=2)
    assert all(word in message for word in words)
    assert not (tmp_path / "chips.parquet").exists()


def test_corrupt_archive_line_is_named(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "archive.jsonl").write_text('{"type": "TABLE", "id": "a", "href": "missing.shp"}\n{not json\n')
    message = refused(tmp_path / "c", "sample", code=2, archive=archive)
    assert "archive.jsonl" in message
    assert "2" in message


def test_campaign_of_another_version_is_refused(tmp_path):
    (tmp_path / "campaign.toml").write_text('format_version = 99\nm3etl_version = "9.9.0"\n')
    message = refused(tmp_path, "export", code=5)
    assert "99" in message
    assert "9.9.0" in message


def test_unknown_configuration_key_is_named(tmp_path):
    (tmp_path / "campaign.toml").write_text("format_version = 1\n[sample]\nchipz = 3\n")
    assert "sample.chipz" in refused(tmp_path, "export", code=2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only directories")
def test_read_only_directory(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        refused(tmp_path, "sample", code=2)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_directory_that_cannot_exist(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert "file" in refused(file / "campaign", "sample", code=2)


def test_full_disk_stops_cleanly_and_the_next_run_completes(tmp_path):
    """A limit on the size of files stands for a full disk: every write beyond it fails as it would there."""
    folder = tmp_path / "c"
    m3etl(folder, "sample", "--chips", "3", "--biomes", "Tundra,Mangroves,4")
    result = m3etl(folder, "export", check=False, largest_file_bytes=300_000)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "cannot write" in result.stderr
    m3etl(folder, "export")
    m3etl(folder, "validate")


def test_no_login_names_both_ways_out(tmp_path):
    message = refused(tmp_path, "sample", code=4, M3ETL_EE_URL="", HOME=str(tmp_path), CLOUDSDK_CONFIG=str(tmp_path))
    assert "earthengine authenticate" in message
    assert "--ee-url embedded" in message


def test_region_without_a_planned_chip(tmp_path):
    m3etl(tmp_path, "sample", "--chips", "2", "--biomes", "Tundra")
    message = refused(tmp_path, "export", "--region", "pakin", code=3)
    assert "sample --region" in message
    assert "--strategy grid" in message
