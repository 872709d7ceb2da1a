"""The group: cheap help, exit codes and messages for every kind of failure, settings handed to the commands."""

from __future__ import annotations

import errno
import json
import os
import resource
import sqlite3
import subprocess
import sys

import click
import pytest

from m3etl.cli import main as main_module
from m3etl.cli.failures import explain
from m3etl.errors import (
    AuthenticationError,
    DamagedError,
    InputError,
    M3etlError,
    NothingSelectedError,
    RemoteError,
)

# What the first screen must not load: each of these costs more than the whole budget of 0.3 s.
heavy = ("ee", "torch", "rasterio", "zarr", "geopandas", "pandas", "numba", "matplotlib", "lightning", "rich", "numpy")


@pytest.fixture
def failing_command(monkeypatch):
    """Makes `m3etl status` raise the given error."""

    def install(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda self, context, name: command)

    return install


def test_help_is_cheap_and_loads_no_heavy_package():
    program = (
        "import sys\n"
        "from m3etl.cli.main import run\n"
        "code = run(['--help'])\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert "LOADED []" in result.stdout
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 0.3, f"m3etl --help took {seconds:.2f} s of CPU"


def test_help_lists_every_command_with_a_line(capsys):
    assert main_module.run(["--help"]) == 0
    lines = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")
    }
    for name in main_module.commands:
        assert lines.get(name), f"{name} has no line of help"


@pytest.mark.parametrize("name", sorted(main_module.commands))
def test_every_command_has_help(name, capsys):
    assert main_module.run([name, "--help"]) == 0
    assert "Usage: m3etl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad", hint="do this"), 2),
        (NothingSelectedError("none", hint="do this"), 3),
        (RemoteError("far", hint="do this"), 4),
        (AuthenticationError("who", hint="do this"), 4),
        (DamagedError("broken", hint="do this"), 5),
        (M3etlError("other", hint="do this"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_no_traceback(failing_command, capsys, error, code):
    failing_command(error)
    assert main_module.run(["status"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {error.message}\nhint: do this\n"


def test_interrupt_is_130(failing_command, capsys):
    failing_command(KeyboardInterrupt())
    assert main_module.run(["status"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            2,
            "cannot write: /data/x (No space left on device)",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), 2, "/data/x (Read-only file system)"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), 2, "/data/x (Permission denied)"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 4, "Connection refused"),
        (sqlite3.OperationalError("database or disk is full"), 2, "cannot write the ledger"),
        (sqlite3.OperationalError("attempt to write a readonly database"), 2, "cannot write the ledger"),
        (sqlite3.OperationalError("database is locked"), 2, "another m3etl process"),
        (sqlite3.DatabaseError("database disk image is malformed"), 5, "the ledger is damaged"),
    ],
)
def test_trouble_of_the_machine_is_one_clear_message(failing_command, capsys, error, code, text):
    failing_command(error)
    assert main_module.run(["status"]) == code
    captured = capsys.readouterr().err
    assert text in captured
    assert "hint: " in captured
    assert "Traceback" not in captured


def test_a_bug_says_how_to_report_it_and_shows_a_traceback_only_with_v(failing_command, capsys):
    failing_command(ZeroDivisionError("division by zero"))
    assert main_module.run(["status"]) == 1
    plain = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in plain
    assert "m3etl -v" in plain
    assert "Traceback" not in plain
    assert main_module.run(["-C", "-v", "-v", "status"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_errors_that_are_ours_are_explained_as_they_are():
    error = InputError("x")
    assert explain(error) is error
    assert explain(ValueError("y")) is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["sample", "--strategy", "dice"], "'dice' is not one of"),
        (["sample", "--years", "2020:2017"], "ascending"),
        (["status", "--frobnicate"], "No such option"),
    ],
)
def test_usage_errors_are_2(arguments, text, capsys):
    assert main_module.run(arguments) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_modalities_as_json_is_one_document(capsys):
    assert main_module.run(["--json", "modalities"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"sentinel2", "sentinel1", "aster", "worldcover"} <= {row["modality"] for row in rows}


def test_one_modality_is_described_and_an_unknown_one_is_refused(capsys):
    assert main_module.run(["modalities", "aster"]) == 0
    text = capsys.readouterr().out
    assert "aster_elevation" in text
    assert "aster_slope" in text
    assert main_module.run(["modalities", "radar"]) == 2
    captured = capsys.readouterr().err
    assert "unknown modality: radar" in captured
    assert "sentinel1" in captured


def test_a_reader_that_closes_early_gets_no_traceback():
    result = subprocess.run(
        f"{sys.executable} -m m3etl.cli.main --json modalities | head -n 1", shell=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "["
    assert result.stderr == ""


def test_completing_words_in_a_shell_is_no_failure():
    command = [sys.executable, "-m", "m3etl.cli.main"]
    ask = {**os.environ, "_M3ETL_COMPLETE": "bash_source"}
    result = subprocess.run(command, env=ask, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "_m3etl_completion" in result.stdout


def test_a_reader_that_is_gone_is_no_bug():
    """Exit code 1 is promised to mean a bug."""
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    assert reader.stdin is not None
    command = [sys.executable, "-m", "m3etl.cli.main", "regions"]
    result = subprocess.run(command, stdout=reader.stdin, stderr=subprocess.PIPE, text=True)
    reader.stdin.close()
    assert (result.returncode, result.stderr) == (141, "")
