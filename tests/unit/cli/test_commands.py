"""Commands on a finished campaign and in empty directories: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest
from fakes.campaigns import make_campaign
from fakes.ecoregion_table import world_table

from m3etl.campaign import CampaignConfig, EarthEngineConfig, SampleConfig, create_campaign, open_campaign
from m3etl.cli.connection import source_from_environment, source_of
from m3etl.cli.main import run
from m3etl.cli.options import parse_years
from m3etl.cli.sample import _sample_options, _split_options, parse_fractions
from m3etl.errors import InputError
from m3etl.io.plan import read_plan
from m3etl.stages.summary import Summary


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["describe"],
        ["status"],
        ["preview"],
        ["validate"],
        ["evaluate"],
        ["embed"],
        ["upload-hf", "--repo", "a/b", "--dry-run"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_reading_commands_need_a_campaign_and_draw_none(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.setenv("M3ETL_EE_URL", "embedded")
    assert run(["-C", str(tmp_path), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: no campaign in {tmp_path}")
    assert "m3etl sample" in captured.err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "campaign.toml").write_text("")
    assert run(["-C", str(tmp_path), *arguments]) == 2
    assert f"m3etl -C {tmp_path / 'mine'}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("content", ["", '{"sentinel2_l2a": {', "[1, 2]", "\x00\x01"])
def test_damaged_statistics_are_said_and_made_anew(directory, capsys, content):
    (directory / "stats.json").write_text(content)
    arguments = ["-C", str(directory), "upload-hf", "--repo", "a/b", "--synthetic", "--dry-run"]
    assert run(arguments) == 0
    assert "the statistics cannot be read: running `m3etl normalize` first" in capsys.readouterr().err
    assert json.loads((directory / "stats.json").read_text())["dataset_id"]


def test_a_seed_that_no_file_can_hold_is_a_usage_error(tmp_path, capsys):
    assert run(["-C", str(tmp_path / "c"), "sample", "--seed", "9" * 30]) == 2
    assert "--seed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "tile", "normalize", "pretrain"])
def test_stages_that_make_data_start_a_campaign_and_say_so(tmp_path, capsys, monkeypatch, command):
    from m3etl.stages import chain

    def start(root, config, *, ecoregions, progress):
        raise InputError("enough")

    monkeypatch.setattr(chain, "start_campaign", start)
    assert run(["-C", str(tmp_path), command]) == 2
    message = capsys.readouterr().err
    assert "running `m3etl sample` first" in message
    assert "enough" in message


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


@pytest.mark.parametrize(
    ("text", "reason"),
    [("2020:2017", "ascending"), ("1900:1950", "not within 1980:2100"), ("2020:20200", "not within 1980:2100")],
)
def test_years_that_never_were_are_told_from_a_wrong_order(text, reason):
    with pytest.raises(click.BadParameter, match=reason):
        parse_years(None, None, text)


@pytest.mark.parametrize(
    ("command", "option"),
    [("export", "--budget-eecu-hours"), ("sample", "--buffer-km"), ("sample", "--exclude-buffer-km")],
)
@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_numbers_must_be_finite(tmp_path, capsys, command, option, number):
    """No cost is ever above a budget of NaN: it would have been none."""
    assert run(["-C", str(tmp_path), command, option, number]) == 2
    assert option in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_source_comes_from_options_and_environment(tmp_path, monkeypatch):
    (tmp_path / "archive.jsonl").write_text("")
    assert source_of("embedded", None, str(tmp_path)) == EarthEngineConfig(url="embedded", archive=str(tmp_path))
    assert source_of("http://127.0.0.1:8085", "p", None).project == "p"
    with pytest.raises(InputError, match="no Earth Engine"):
        source_of("127.0.0.1:8085", None, None)
    monkeypatch.setenv("M3ETL_EE_URL", "embedded")
    assert source_from_environment() == EarthEngineConfig(url="embedded")


@pytest.mark.parametrize(
    ("text", "fractions"), [("60/20/20", (0.6, 0.2, 0.2)), ("100/0/0", (1.0, 0.0, 0.0)), (None, None)]
)
def test_fractions_are_percentages(text, fractions):
    assert parse_fractions(None, None, text) == fractions


@pytest.mark.parametrize("text", ["60/20", "a/b/c", "60/20/30", "120/-10/-10", "nan/50/50"])
def test_wrong_fractions_are_usage_errors(text):
    with pytest.raises(click.BadParameter):
        parse_fractions(None, None, text)


def test_options_of_splits_say_how_by_themselves(tmp_path):
    empty = {"split_by": None, "hold_out": (), "split_fractions": None, "split_file": None, "buffer_km": None}
    assert _split_options(dict(empty)) == {}
    assert _split_options({**empty, "split_by": "bands"}) == {"by": "bands", "train": 0.6, "val": 0.2, "test": 0.2}
    given = _split_options({**empty, "split_by": "bands", "split_fractions": (0.8, 0.1, 0.1), "buffer_km": 2.0})
    assert given == {"by": "bands", "train": 0.8, "val": 0.1, "test": 0.1, "buffer_km": 2.0}
    assert _split_options({**empty, "hold_out": ("china",)}) == {"by": "region", "hold_out": ("china",)}
    file = tmp_path / "s.csv"
    assert _split_options({**empty, "split_file": file}) == {"by": "points", "file": str(file.resolve())}


def test_adding_to_a_plan_as_typed(tmp_path, capsys):
    directory = str(tmp_path / "c")
    table = tmp_path / "ecoregions.gpkg"
    world_table().to_file(table)
    common = ["--ecoregions", str(table)]
    assert run(["-C", directory, "sample", "--add", "--chips", "3", *common]) == 2
    assert "no campaign in" in capsys.readouterr().err
    assert run(["-C", directory, "sample", "--chips", "14", "--exclude", "europe", *common]) == 0
    capsys.readouterr()
    assert run(["-C", directory, "sample", "--add", *common]) == 2
    assert "needs --chips" in capsys.readouterr().err
    assert run(["-C", directory, "sample", "--add", "--chips", "5", "--split-by", "bands", *common]) == 2
    assert "split of a chip never changes" in capsys.readouterr().err
    more = ["--add", "--chips", "28", "--years", "2021:2022", "--per-ecoregion"]
    assert run(["-C", directory, "--json", "sample", *more, *common]) == 0
    assert json.loads(capsys.readouterr().out)["chips"] == 28
    config = open_campaign(tmp_path / "c").config
    assert config.additions == {"1": "--chips 28 --years 2021:2022 --per-ecoregion"}
    assert (config.sample.chips, config.sample.years, config.sample.exclude) == (14, (2017, 2022), ("europe",))
    plan = read_plan(tmp_path / "c" / "chips.parquet")
    assert (~plan["reserve"]).sum() == 42
    assert run(["-C", directory, "sample", "--chips", "15", *common]) == 2
    assert "--add" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("demo",), "m3etl-demo"),
        (("-C", "here", "demo"), "here"),
        (("demo", "--directory", "there"), "there"),
        (("-C", "here", "demo", "--directory", "here"), "here"),
    ],
)
def test_the_demo_goes_where_it_is_told(monkeypatch, capsys, arguments, place):
    places = []

    def run_demo(directory, *, progress):
        places.append(directory)
        return Summary(stage="demo", done=1)

    monkeypatch.setattr("m3etl.stages.demo.run_demo", run_demo)
    assert run([*arguments]) == 0
    assert places == [Path(place)]


def test_two_places_for_the_demo_are_refused(capsys):
    assert run(["-C", "here", "demo", "--directory", "there"]) == 2
    assert "-C here and --directory there are two places" in capsys.readouterr().err
