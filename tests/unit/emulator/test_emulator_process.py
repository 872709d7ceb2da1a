"""The embedded Earth Engine as a child process: ready, stopped, refused, and gone when its parent is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from m3etl.emulator.process import start_embedded
from m3etl.errors import InputError

repository = Path(__file__).resolve().parents[3]


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_it_answers_logs_and_stops(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    with start_embedded(state_dir=tmp_path / "state", log=log, latency_ms=1) as server:
        assert server.url.startswith("http://127.0.0.1:")
        document = fetch(f"{server.url}/$discovery/rest?version=v1")
        assert document["rootUrl"] == f"{server.url}/"
        pid = server.pid
        assert is_running(pid)
    assert not is_running(pid)
    server.stop()
    assert json.loads(log.read_text())["path"] == "/$discovery/rest"
    assert (tmp_path / "state" / "emulator.stderr").read_text() == ""


def test_without_a_state_directory_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with start_embedded():
        assert list(tmp_path.iterdir()) != []
    assert list(tmp_path.iterdir()) == []


def test_wrong_input_is_told_by_the_parent(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('{"rules": [{"path": "x"}]}')
    with pytest.raises(InputError, match=r"rules\[0\]: needs one of"):
        start_embedded(faults=faults)
    (tmp_path / "archive.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"archive\.jsonl, line 1"):
        start_embedded(archive=tmp_path)
    with pytest.raises(InputError, match="Cannot use the state directory"):
        start_embedded(state_dir=Path("/dev/null/state"))


@pytest.mark.parametrize("hold_the_pipe", [False, True])
def test_the_server_dies_with_its_killed_parent(tmp_path: Path, hold_the_pipe: bool) -> None:
    """Also when another child of the parent keeps the pipe to the server open."""
    code = (
        "import json, os, sys, time, warnings\n"
        "from m3etl.emulator.process import start_embedded\n"
        "server = start_embedded()\n"
        f"held = os.fork() if {hold_the_pipe} else 0\n"
        f"if {hold_the_pipe} and held == 0:\n"
        "    os.close(1); time.sleep(60)\n"
        "print(json.dumps([server.pid, server.url, held]), flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(repository), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, cwd=tmp_path)
    assert parent.stdout is not None
    pid, url, held = json.loads(parent.stdout.readline())
    assert fetch(f"{url}/$discovery/rest")["name"] == "earthengine"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until_gone(pid)
    if held:
        os.kill(held, signal.SIGKILL)


def test_it_can_be_started_in_a_thread_that_ends(tmp_path: Path) -> None:
    servers = []
    thread = threading.Thread(target=lambda: servers.append(start_embedded(state_dir=tmp_path)))
    thread.start()
    thread.join()
    time.sleep(0.7)
    with servers[0] as server:
        assert fetch(f"{server.url}/$discovery/rest")["version"] == "v1"


def test_the_module_runs_until_terminated(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "m3etl.emulator", "--state-dir", str(tmp_path)], stdout=subprocess.PIPE, cwd=repository
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    assert fetch(f"{url}/v1/projects/p-12345/operations") == {"operations": []}
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


def test_the_module_names_a_wrong_argument() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m3etl.emulator", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        cwd=repository,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The embedded Earth Engine cannot listen on '0.0.0.0'.")
    assert "Traceback" not in done.stderr
