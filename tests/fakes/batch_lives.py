"""Runs an export by the batch lane over and over, each life ended by kill -9, until one life reaches the end.

`python -m fakes.batch_lives CAMPAIGN CLOUD SEED`: prints one JSON line with the number of lives. A life ends before or
after one of its writes: to the disk, to the ledger, to the table of tasks, or to the service (a submission).
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
from fakes.tasks import FakeTasks, place

from m3etl.campaign import open_campaign
from m3etl.io.exports import Operation
from m3etl.io.ledger import Ledger
from m3etl.io.objects import Bucket
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.tasks import Tasks
from m3etl.stages import batch
from m3etl.stages.export import run_export
from m3etl.stages.summary import SilentProgress

task_writes = ("add", "submitting", "started", "exported", "try_again", "failed", "replaced", "read")


def die_after(writes: int, *, before: bool) -> None:
    """Let the process end without a trace at its `writes`-th write, before or after it."""
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
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    for owner, names in (
        (Ledger, ("record_planned", "record_landed", "record_failed", "record_sealed")),
        (Tasks, task_writes),
        (FakeTasks, ("submit", "_export")),
        (Bucket, ("write", "delete")),
    ):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def trouble(kind: str, subject: Any, number: int) -> Failure | Operation | None:
    """Some attempts end in an internal error, some answers get lost."""
    if kind == "run" and number == 1 and fraction(sorted(subject.scenes), subject.chips) < 0.2:
        return Operation(name="x", done=True, failure=Failure(kind=Kind.TRANSIENT, message="injected"))
    if kind != "run" and fraction(kind, number, os.getpid()) < 0.1:
        return Failure(kind=Kind.NETWORK, message="injected")
    return None


def life(root: Path, cloud: Path, writes: int, *, before: bool) -> None:
    """One run, to its end or its death."""
    patch = pytest.MonkeyPatch()
    install(patch)
    tasks = FakeTasks(cloud, trouble=trouble, slow=1)
    patch.setattr(batch, "connect", lambda session, where, layout: (tasks, tasks.bucket()))
    patch.setattr(batch, "_place_of", lambda campaign, session: place)
    die_after(writes, before=before)
    run_export(open_campaign(root), session=FakeEarth(), progress=SilentProgress(), base_wait_s=0.001)


def main() -> None:
    root, cloud, draw = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    lives = 0
    while lives < 200:
        lives += 1
        writes, before = draw.randint(1, 40 + 15 * lives), draw.random() < 0.5
        child = os.fork()
        if child == 0:
            life(root, cloud, writes, before=before)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            sys.stdout.write(json.dumps({"lives": lives}) + "\n")
            return
        if not os.WIFSIGNALED(status):
            raise SystemExit("a life ended with an error")
    raise SystemExit("no life reached the end")


if __name__ == "__main__":
    main()
