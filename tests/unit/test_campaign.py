"""The campaign directory: configuration there and back, what is refused, atomic writes, the lock."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from m3etl.campaign import (
    Campaign,
    CampaignConfig,
    ExportConfig,
    HubConfig,
    SampleConfig,
    create_campaign,
    locked,
    open_campaign,
    read_config,
    save_config,
    write_atomically,
)
from m3etl.errors import DamagedError, InputError


def test_configuration_comes_back_as_it_was(tmp_path):
    config = CampaignConfig(
        sample=SampleConfig(biomes=(1, 4), chips=7, years=(2018, 2019), region="europe"),
        export=ExportConfig(modalities=("aster",), max_cloud=0.25),
        hub=HubConfig(repo="a/b"),
        catalogue={"aster_slope": "0" * 64},
    )
    create_campaign(tmp_path / "new" / "campaign", config)
    assert open_campaign(tmp_path / "new" / "campaign").config == config


def test_an_empty_file_means_the_defaults(tmp_path):
    (tmp_path / "campaign.toml").write_text("format_version = 1\n")
    assert open_campaign(tmp_path).config == CampaignConfig()


def test_whole_numbers_are_taken_for_fractions(tmp_path):
    (tmp_path / "campaign.toml").write_text("format_version = 1\n[split]\nblock_km = 50\n")
    assert open_campaign(tmp_path).config.split.block_km == 50.0


def test_every_wrong_key_and_type_is_named_at_once(tmp_path):
    (tmp_path / "campaign.toml").write_text(
        "format_version = 1\nsurprise = 1\n"
        "[sample]\nchipz = 3\nseed = 'x'\nyears = [2017]\nchips = true\n"
        "[store]\nkeep_raw = 1\n[hub]\nrepo = 3\n[export]\nmodalities = 'aster'\n"
    )
    with pytest.raises(InputError) as caught:
        open_campaign(tmp_path)
    for words in (
        "unknown key surprise",
        "unknown key sample.chipz",
        "sample.seed = 'x' is not of type int",
        "sample.years",
        "sample.chips = True",
        "store.keep_raw",
        "hub.repo",
        "export.modalities",
    ):
        assert words in caught.value.message


def test_a_section_that_is_no_table_is_named(tmp_path):
    (tmp_path / "campaign.toml").write_text("format_version = 1\nsample = 3\n")
    with pytest.raises(InputError, match="sample"):
        open_campaign(tmp_path)


@pytest.mark.parametrize("text", ["format_version = 2\nm3etl_version = '9.0'\n", "[sample]\nchips = 1\n"])
def test_another_format_version_is_refused(tmp_path, text):
    (tmp_path / "campaign.toml").write_text(text)
    with pytest.raises(DamagedError, match="format version"):
        open_campaign(tmp_path)


@pytest.mark.parametrize("content", [b"format_version = ", b"\xff\xfe\x00"])
def test_an_unreadable_file_is_damaged(tmp_path, content):
    (tmp_path / "campaign.toml").write_bytes(content)
    with pytest.raises(DamagedError, match="cannot read"):
        read_config(tmp_path / "campaign.toml")


def test_no_campaign_says_how_to_start_one(tmp_path):
    with pytest.raises(InputError) as caught:
        open_campaign(tmp_path)
    assert "m3etl sample" in caught.value.hint
    assert "-C" in caught.value.hint


def test_a_second_campaign_in_one_directory_is_refused(tmp_path):
    create_campaign(tmp_path, CampaignConfig())
    with pytest.raises(InputError, match="already holds a campaign"):
        create_campaign(tmp_path, CampaignConfig())


def test_the_file_says_which_version_wrote_it(tmp_path):
    campaign = create_campaign(tmp_path, CampaignConfig())
    document = tomllib.loads(campaign.config_path.read_text())
    assert document["format_version"] == 1
    assert document["m3etl_version"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "campaign.toml"
    path.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left") as caught:
        write_atomically(path, b"new")
    assert "space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["campaign.toml"]


def test_saving_changes_one_section_only(tmp_path):
    campaign = create_campaign(tmp_path, CampaignConfig())
    changed = campaign.with_config(hub=HubConfig(repo="a/b"))
    assert open_campaign(tmp_path).config.hub.repo == ""
    save_config(changed)
    assert open_campaign(tmp_path).config == dataclasses.replace(CampaignConfig(), hub=HubConfig(repo="a/b"))


def test_paths_lie_in_the_campaign():
    campaign = Campaign(Path("c"), CampaignConfig(sample=SampleConfig(chip_px=64)))
    names = [name for name in dir(Campaign) if name.endswith("_path")]
    assert len(names) == 10
    assert {getattr(campaign, name).parent for name in names} == {Path("c")}
    assert campaign.chip_m == 640.0


def test_a_second_process_is_kept_out_and_the_lock_ends(tmp_path):
    campaign = create_campaign(tmp_path, CampaignConfig())
    program = (
        "import sys, pathlib\n"
        "from m3etl.campaign import locked, open_campaign\n"
        "with locked(open_campaign(pathlib.Path(sys.argv[1]))):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another m3etl process"), locked(campaign):
        raise AssertionError("two processes hold the lock")
    other.kill()
    other.communicate()
    with locked(campaign):
        assert (tmp_path / ".lock").exists()
