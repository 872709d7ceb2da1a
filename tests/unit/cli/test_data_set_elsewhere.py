"""`-C URL`: describe says what a published data set holds; other commands say that they need a directory."""

from __future__ import annotations

import json

import pytest
from fakes.chips import few_specs, make_store
from fakes.range_server import range_server

from m3etl.cli.main import commands, run


@pytest.fixture
def url(tmp_path):
    make_store(tmp_path / "set" / "chips.zarr", few_specs, count=9, missing=0.0)
    with range_server(tmp_path) as running:
        yield f"{running.url}/set"


@pytest.mark.parametrize("tail", ["", "/", "/chips.zarr"])
def test_describe_says_what_is_there(url, capsys, tail):
    assert run(["-C", url + tail, "--json", "describe"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chips stored"] == 9
    assert sum(row["chips"] for row in found["splits"]) == 9
    assert [row["array"] for row in found["arrays"]] == [spec.name for spec in few_specs]
    assert all(row["size"] in ("vector",) or row["size"].endswith(" px") for row in found["arrays"])


def test_nothing_at_the_url_is_said(url, capsys):
    assert run(["-C", f"{url}/typo", "describe"]) == 2
    assert "typo/chips.zarr" in capsys.readouterr().err


def test_records_are_not_there(url, capsys):
    assert run(["-C", url, "describe", "--presence"]) == 2
    assert "--presence" in capsys.readouterr().err


@pytest.mark.parametrize("command", [name for name in commands if name != "describe"])
def test_other_commands_need_a_directory(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert run(["-C", "s3://bucket/set", command]) == 2
    assert "directory" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
