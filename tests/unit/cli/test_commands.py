"""Commands on a finished campaign and in empty directories: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import shutil

import click
import pytest
from fakes.campaigns import make_campaign

from m3etl.campaign import CampaignConfig, EarthEngineConfig, SampleConfig, create_campaign, open_campaign
from m3etl.cli.connection import source_from_environment, source_of
from m3etl.cli.main import run
from m3etl.cli.options import parse_years
from m3etl.cli.sample import _sample_options
from m3etl.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_campaign(tmp_path_factory.mktemp("commands") / "c", origin="planet").root


@pytest.fixture
def directory(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "c")
    return tmp_path / "c"


def test_upload_as_typed_writes_the_card_and_one_document(directory, capsys):
    arguments = ["-C", str(directory), "--json", "upload-hf", "--repo", "a/b", "--synthetic", "--dry-run"]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["repository"] == "a/b-synthetic"
    assert document["uploaded"] is False
    assert (directory / "hub" / "README.md").is_file()
    assert "called a/b-synthetic" in captured.err


def test_upload_of_made_up_data_without_the_word_is_2(directory, capsys):
    assert run(["-C", str(directory), "upload-hf", "--repo", "a/b", "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--synthetic" in captured.err


def test_a_wrong_repository_is_refused_before_anything_runs(tmp_path, capsys):
    assert run(["-C", str(tmp_path / "c"), "upload-hf", "--repo", "not a repo"]) == 2
    assert "not a repo" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_describe_prints_tables(directory, capsys):
    assert run(["-C", str(directory), "describe"]) == 0
    text = capsys.readouterr().out
    assert "sentinel2_l2a" in text
    assert "uint16 x 0.0001" in text


def test_normalize_says_what_it_did(directory, capsys):
    assert run(["-C", str(directory), "--json", "normalize", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "normalize"


@pytest.mark.parametrize("command", ["describe", "status"])
def test_reading_commands_need_a_campaign_and_draw_none(tmp_path, capsys, command):
    assert run(["-C", str(tmp_path), command]) == 2
    assert "m3etl sample" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["export", "--modality", "lidar"], "lidar"),
        (["export", "--region", "atlantis"], "atlantis"),
        (["pretrain", "model.sise=atto"], "model.size"),
        (["sample", "--biomes", "99"], "99"),
        (["sample", "--ee-url", "nonsense"], "nonsense"),
        (["sample", "--archive", "nowhere"], "nowhere"),
        (["sample", "--strategy", "points"], "--points"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_drawn(tmp_path, capsys, arguments, word):
    assert run(["-C", str(tmp_path / "c"), *arguments]) == 2
    captured = capsys.readouterr()
    assert word in captured.err
    assert captured.out == ""
    assert not (tmp_path / "c").exists()


def test_options_override_the_configuration_and_leave_the_rest():
    given = _sample_options(biomes="Tundra,4", points=None, chips=5, region=None, strategy=None)
    assert given == {"biomes": (0, 4), "chips": 5}


def test_points_mean_the_strategy_points(tmp_path):
    file = tmp_path / "points.csv"
    given = _sample_options(biomes=None, points=file, strategy=None)
    assert given == {"strategy": "points", "points": str(file.resolve())}
    with pytest.raises(click.UsageError, match="grid"):
        _sample_options(biomes=None, points=file, strategy="grid")


@pytest.mark.parametrize(("text", "years"), [("2017:2020", (2017, 2020)), ("2019", (2019, 2019)), (None, None)])
def test_years_are_inclusive_pairs(text, years):
    assert parse_years(None, None, text) == years


@pytest.mark.parametrize("text", ["x", "2020:2017", "2017:", ":", "1500:1600", "2017-2020"])
def test_wrong_years_are_usage_errors(text):
    with pytest.raises(click.BadParameter):
        parse_years(None, None, text)


def test_the_source_comes_from_options_and_environment(tmp_path, monkeypatch):
    (tmp_path / "archive.jsonl").write_text("")
    assert source_of("embedded", None, str(tmp_path)) == EarthEngineConfig(url="embedded", archive=str(tmp_path))
    assert source_of("http://127.0.0.1:8085", "p", None).project == "p"
    with pytest.raises(InputError, match="no Earth Engine"):
        source_of("127.0.0.1:8085", None, None)
    monkeypatch.setenv("M3ETL_EE_URL", "embedded")
    assert source_from_environment() == EarthEngineConfig(url="embedded")


def test_sampling_again_does_nothing_or_is_refused(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "c")
    sample = open_campaign(tmp_path / "c").config.sample
    same = ["--chips", str(sample.chips), "--chip-px", str(sample.chip_px), "--region", sample.region]
    assert run(["-C", str(tmp_path / "c"), "sample", *same]) == 0
    assert "exists already" in capsys.readouterr().out
    assert run(["-C", str(tmp_path / "c"), "sample", "--seed", "7"]) == 2
    assert "seed 0 (now 7)" in capsys.readouterr().err


def test_a_configuration_that_waits_is_taken(tmp_path, monkeypatch):
    from m3etl.stages import chain

    create_campaign(tmp_path, CampaignConfig(sample=SampleConfig(chips=9, region="europe")))
    drawn = []

    def start(root, config, *, ecoregions, progress):
        drawn.append(config)
        raise InputError("enough")

    monkeypatch.setattr(chain, "start_campaign", start)
    assert run(["-C", str(tmp_path), "sample", "--seed", "3"]) == 2
    assert (drawn[0].sample.chips, drawn[0].sample.region, drawn[0].sample.seed) == (9, "europe", 3)


def test_doctor_prints_a_table_and_a_document(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["-C", str(tmp_path), "doctor"]) == 0
    assert "disk space" in capsys.readouterr().out
    assert run(["-C", str(tmp_path), "--json", "doctor", "--ee-url", "http://127.0.0.1:9"]) == 3
    states = {item["check"]: item["state"] for item in json.loads(capsys.readouterr().out)["checks"]}
    assert states["Earth Engine"] == "fail"


def test_regions_are_listed_described_and_unknown_ones_refused(capsys):
    assert run(["regions"]) == 0
    assert "southamerica" in capsys.readouterr().out
    assert run(["--json", "regions", "pakin"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "pakin"
    assert run(["regions", "atlantis"]) == 2
    assert "europe" in capsys.readouterr().err
