"""The export on a terminal of its own: a live bar, Ctrl-C as a user types it, and results apart from progress."""

from __future__ import annotations

import json
import os
import pty
import select
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

from m3etl.emulator.process import start_embedded
from tests.unit.stages.test_export import make_campaign, make_plan

chips = 24
interrupt_key = b"\x03"


def on_a_terminal(command: list[str], url: str, stdout: Path) -> tuple[int, int]:
    """Start a command whose input and standard error are a new terminal of 100 columns; (process id, its other end)."""
    process, terminal = pty.fork()
    if process == 0:
        try:
            os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            environment = {**os.environ, "M3ETL_EE_URL": url, "TERM": "xterm-256color"}
            environment.pop("COLUMNS", None)
            os.execvpe(command[0], command, environment)
        finally:
            os._exit(127)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    return process, terminal


def read_terminal(terminal: int, until: float) -> bytes:
    """What is shown before `until` (a moment of the monotonic clock), or before the other side closes it."""
    shown = b""
    while (left := until - time.monotonic()) > 0:
        if not select.select([terminal], [], [], min(left, 0.2))[0]:
            continue
        try:
            piece = os.read(terminal, 65_536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    return shown


def test_a_bar_and_ctrl_c_on_a_terminal(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips), modalities=("aster", "worldcover"), max_in_flight=2)
    log, results = tmp_path / "requests.jsonl", tmp_path / "results.json"
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"rules": [{"path": "computePixels", "delay_ms": 400}]}))
    command = [sys.executable, "-W", "ignore", "-m", "m3etl", "-C", str(campaign.root), "--json", "export"]
    with start_embedded(state_dir=tmp_path / "state", log=log, faults=faults) as server:
        process, terminal = on_a_terminal(command, server.url, results)
        shown = b""
        until = time.monotonic() + 120
        while time.monotonic() < until and b" left" not in shown:
            shown += read_terminal(terminal, time.monotonic() + 0.3)
        os.write(terminal, interrupt_key)
        shown += read_terminal(terminal, time.monotonic() + 60)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
        os.close(terminal)
        text = shown.decode()
        assert f"/{chips}" in text
        assert "in flight" in text
        assert "429s 0" in text
        assert "retries 0" in text
        assert " left" in text
        assert "stopping: what is in flight still lands" in text
        assert "the same command goes on from there" in text
        assert "Traceback" not in text
        assert results.read_text() == "", "no result is written for a run that was broken off"
        process, terminal = on_a_terminal(command, server.url, results)
        read_terminal(terminal, time.monotonic() + 120)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        os.close(terminal)
    summary = json.loads(results.read_text())
    assert summary["done"] == chips
    assert 0 < summary["new chips"] < chips
    assert log.read_text().count("computePixels") == chips, "nothing that landed is asked for again"
