"""Runs an export over and over, each life ended by kill -9 after a few writes, until one life reaches the end.

`python -m fakes.export_lives CAMPAIGN SEED KIND [MODALITY]...`: prints one JSON line with the number of lives and of
pixel requests. KIND: none, faults, or losses (one chip in five has no good scene). Lives are forks of this process,
which itself starts no threads, so that a life costs no imports.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.earth import FakeEarth, fraction, install

from m3etl.campaign import open_campaign
from m3etl.io import ledger as ledger_module
from m3etl.io.outcomes import Failure, Kind
from m3etl.stages import scheduling
from m3etl.stages.export import run_export
from m3etl.stages.summary import SilentProgress


def die_after(writes: int, *, before: bool) -> None:
    """Let the process end without a trace at its `writes`-th write (fsync, rename or commit), before or after it."""
    left = writes

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            fatal = left == 0
            if fatal and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    os.fsync = counted(os.fsync)
    os.replace = counted(os.replace)
    os.rename = counted(os.rename)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    for name in ("record_planned", "record_landed", "record_sealed", "write_meta"):
        setattr(ledger_module.Ledger, name, counted(getattr(ledger_module.Ledger, name)))
    for name in ("load_plan", "form_lots", "fix_lot"):
        setattr(scheduling, name, counted(getattr(scheduling, name)))


def trouble(kind: str, subject: Any, number: int) -> Failure | None:
    """One request in three fails for a passing reason."""
    key = subject.job.chip.chip_id if kind == "pixels" else subject.kind
    if number < 4 and fraction(key, number, os.getpid()) < 0.3:
        return Failure(kind=Kind.TRANSIENT, message="injected")
    return None


def life(root: Path, log: Path, writes: int, *, before: bool, kind: str) -> None:
    """One run, to its end or its death."""
    patch = pytest.MonkeyPatch()
    install(patch)
    sent = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    class Logged(FakeEarth):
        def compute_pixels(self, request: Any) -> bytes:
            body = super().compute_pixels(request)
            os.write(sent, b"x")
            return body

    die_after(writes, before=before)
    earth = Logged(trouble=trouble if kind == "faults" else None, lost=0.2 if kind == "losses" else 0.0)
    modalities = tuple(sys.argv[4:])
    run_export(open_campaign(root), session=earth, progress=SilentProgress(), base_wait_s=0.002, modalities=modalities)


def main() -> None:
    root, seed, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    draw = random.Random(seed)
    log = root.parent / "sent"
    lives = 0
    while lives < 200:
        lives += 1
        writes, before = draw.randint(1, 60 * lives), draw.random() < 0.5
        child = os.fork()
        if child == 0:
            life(root, log, writes, before=before, kind=kind)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            sys.stdout.write(json.dumps({"lives": lives, "sent": log.stat().st_size}) + "\n")
            return
        if not os.WIFSIGNALED(status):
            raise SystemExit("a life ended with an error")
    raise SystemExit("no life reached the end")


if __name__ == "__main__":
    main()
