"""A Dask scheduler and workers as processes of their own on loopback, so that one can be killed by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

repository = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """address: of the scheduler; workers: processes in the order of their start."""

    address: str
    workers: list[subprocess.Popen]


@contextlib.contextmanager
def dask_cluster(folder: Path, *, workers: int = 2, cores: tuple[int, ...] = ()) -> Iterator[Cluster]:
    """A scheduler and workers of one thread each. cores: one for each worker, in turn; any where there are none."""
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / "scheduler.json"
    paths = os.pathsep.join([str(repository), str(repository / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "DASK_DISTRIBUTED__ADMIN__LOG_FORMAT": "%(message)s"}
    environment |= {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
    environment |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def start(module: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        log = (folder / f"{module}-{len(processes)}.log").open("wb")
        with log:
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    processes: list[subprocess.Popen] = []
    try:
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show")
        processes.append(start("dask_scheduler", *options, "--scheduler-file", str(found)))
        address = _address_in(found, processes[0])
        for number in range(workers):
            worker = start(
                "dask_worker",
                address,
                *("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"),
                *("--name", str(number), "--local-directory", str(folder / f"w{number}"), "--memory-limit", "0"),
            )
            if cores:
                os.sched_setaffinity(worker.pid, {cores[number % len(cores)]})
            processes.append(worker)
        yield Cluster(address=address, workers=processes[1:])
    finally:
        for process in reversed(processes):
            process.kill()  # ends at once; a worker would wait for a scheduler that ends as well
            process.wait()


def _address_in(path: Path, process: subprocess.Popen) -> str:
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"the scheduler ended with {process.returncode}: see {path.parent}")
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(path.read_text())["address"])
        time.sleep(0.1)
    raise RuntimeError("the scheduler did not start within 30 seconds")
