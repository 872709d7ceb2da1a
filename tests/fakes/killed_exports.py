"""Kills exports at random moments, one life after the other, until so many are dead; then one reaches the end.

`python -m fakes.killed_exports FOLDER PLAN.parquet CAMPAIGN KILLS SEED`: prints one JSON line with what happened. The
lives and the server are forks of this process, which starts no threads, so that a life costs no imports; each opens its
own session with the real client over a socket. The server's log says when to kill and what was sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fakes.remembering import remembering_service

from m3etl.campaign import open_campaign
from m3etl.emulator.faults import parse_faults
from m3etl.emulator.server import running
from m3etl.io.earthengine import open_session
from m3etl.io.ledger import ChipState, open_ledger
from m3etl.stages.export import run_export
from m3etl.stages.summary import SilentProgress

share = {"probability": 0.03}
faults = {
    "seed": 3,
    "rules": [
        {"path": "compute", "calls": share, **action}
        for action in (
            {"status": 429, "headers": {"Retry-After": "0"}},
            {"status": 503},
            {"status": 500},
            {"html": "<html>busy</html>"},
            {"drop": True},
            {"drop": "after"},
            {"truncate": True},
        )
    ],
}
early_kills = 0.2  # share of the lives that end at any request, mostly while scenes are planned


def serve(folder: Path, log: Path, address: Path) -> None:
    """The server's life: until it is killed."""
    with running(remembering_service(folder / "state"), plan=parse_faults(faults), log=log) as server:
        address.with_suffix(".tmp").write_text(server.url)
        address.with_suffix(".tmp").rename(address)
        signal.pause()


def live(root: Path, url: str) -> None:
    """One life of an export, to its end."""
    with open_session(url=url, project="") as session:
        run_export(open_campaign(root), session=session, progress=SilentProgress(), base_wait_s=0.005)


def fork(function: Any, *arguments: Any) -> int:
    """A child that runs the function; its exit code is 1 after an error."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        function(*arguments)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


class Log:
    """The server's log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._rest = b""
        self.lines: list[dict[str, Any]] = []

    def update(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        self._read += len(content)
        *whole, self._rest = (self._rest + content).split(b"\n")
        self.lines += [line for line in map(json.loads, whole) if "compute" in line["path"]]

    def pixels(self) -> list[dict[str, Any]]:
        """Pixel requests that were answered as they should be."""
        return self.answered("computePixels")

    def answered(self, path: str) -> list[dict[str, Any]]:
        # A client that is killed while it sends leaves half a request, which is answered with an error.
        return [line for line in self.lines if path in line["path"] and line["status"] == 200 and "fault" not in line]


def kept_chips(root: Path) -> int:
    """Chips whose pixels are durable and known to be."""
    path = open_campaign(root).ledger_path
    if not path.exists():
        return 0
    with contextlib.closing(open_ledger(path, to_read=True)) as ledger:
        counts = ledger.counts()
    return sum(counts.get(state, 0) for state in (ChipState.LANDED, ChipState.SEALED, ChipState.FAILED))


def kill_some(root: Path, url: str, log: Log, *, kills: int, chips: int, draw: random.Random, lost: list[int]) -> int:
    """Lives that end by kill -9; returns how many were killed (fewer where an export got to its end). lost: gets the
    answers that each of them has cost, for they have to be asked for again.
    """
    for killed in range(kills):
        early = draw.random() < early_kills
        log.update()
        answered = len({line["digest"] for line in log.pixels()})
        if killed:
            lost.append(answered - kept_chips(root))
        left = chips - answered
        before = len(log.lines) if early else len(log.pixels())
        target = before + (draw.randint(0, 20) if early else draw.randint(0, 2 * left // (kills - killed + 2)))
        delay_s = draw.random() * 0.05
        child = fork(live, root, url)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            log.update()
            if (len(log.lines) if early else len(log.pixels())) >= target:
                time.sleep(delay_s)
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                if not os.WIFSIGNALED(status):
                    return killed
                break
            time.sleep(0.002)
        else:
            return killed
    return kills


def main() -> None:
    folder, root, kills, seed, chips = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6])
    address = folder / "address"
    log = Log(folder / "requests.jsonl")
    server = fork(serve, folder, folder / "requests.jsonl", address)
    try:
        while not address.exists():
            time.sleep(0.01)
        url = address.read_text()
        lost: list[int] = []
        killed = kill_some(root, url, log, kills=kills, chips=chips, draw=random.Random(seed), lost=lost)
        _, status = os.waitpid(fork(live, root, url), 0)
        if status:
            raise SystemExit("the last life ended with an error")
        log.update()
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    times = Counter(line["digest"] for line in log.pixels())
    planning = Counter(line["digest"] for line in log.answered("value:compute"))
    report = {
        "killed": killed,
        "most lost by a kill": max(lost, default=0),
        "chips": len(times),
        "pixels repeated": sum(times.values()) - len(times),
        "planning": len(planning),
        "planning repeated": sum(planning.values()) - len(planning),
        "faults": sum("fault" in line for line in log.lines),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
