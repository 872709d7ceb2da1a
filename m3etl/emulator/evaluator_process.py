"""A second evaluator in a process of its own: under lasting load the server's cores evaluate side by side, which
threads of one interpreter do not. The child answers over a socket pair and ends when its parent's end closes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from m3etl.emulator.messages import failure
from m3etl.emulator.model import Grid, Raster, ServiceError
from m3etl.emulator.pixels import Shape


class EvaluatorProcess:
    """An evaluator (see `pixels.Evaluating`) whose work is done by a child; one caller at a time.

    is_ready: the child has loaded and answers; cpu_s: CPU seconds it has spent on requests. A child that dies over a
    request makes that request a 500, which clients try again, and `is_lost` true.
    """

    def __init__(self, archive: Path | None) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "m3etl.emulator.evaluator_process", str(theirs.fileno())]
        if archive is not None:
            command.append(f"--archive={archive}")
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._connection = Connection(ours.detach())
        self._ready = False
        self.is_lost = False
        self.cpu_s = 0.0

    @property
    def is_ready(self) -> bool:
        if not self._ready and not self.is_lost:
            try:
                self._ready = self._connection.poll() and self._connection.recv() == "ready"
            except (EOFError, OSError):
                self.is_lost = True
        return self._ready and not self.is_lost

    def close(self) -> None:
        """Ends the child."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def value(self, expression: Mapping[str, Any], *, usage: Any = None) -> Any:
        return self._ask("value", usage, expression)

    def pixels(
        self,
        expression: Mapping[str, Any],
        *,
        grid: Grid | None,
        band_ids: Sequence[str] | None,
        visualization: Mapping[str, Any] | None,
        usage: Any = None,
    ) -> Raster:
        raster: Raster = self._ask(
            "pixels", usage, expression, grid=grid, band_ids=band_ids, visualization=visualization
        )
        return raster

    def shape(
        self,
        expression: Mapping[str, Any],
        *,
        grid: Grid | None,
        band_ids: Sequence[str] | None,
        visualization: Mapping[str, Any] | None,
        usage: Any = None,
    ) -> Shape:
        shape: Shape = self._ask("shape", usage, expression, grid=grid, band_ids=band_ids, visualization=visualization)
        return shape

    def features(self, expression: Mapping[str, Any], *, usage: Any = None) -> Sequence[dict[str, Any]]:
        rows: Sequence[dict[str, Any]] = self._ask("features", usage, expression)
        return rows

    def images(self, expression: Mapping[str, Any], *, usage: Any = None) -> Sequence[dict[str, Any]]:
        rows: Sequence[dict[str, Any]] = self._ask("images", usage, expression)
        return rows

    def _ask(self, method: str, usage: Any, expression: Mapping[str, Any], **options: Any) -> Any:
        try:
            self._connection.send((method, dict(expression), options))
            result, error, counted, cpu_s = self._connection.recv()
        except (EOFError, OSError) as lost:
            self.is_lost = True
            raise failure(500, "An internal error has occurred.") from lost
        self.cpu_s += cpu_s
        if usage is not None:
            for name, amount in counted.items():
                setattr(usage, name, getattr(usage, name) + amount)
        if error is not None:
            raise error
        return result


class Helping:
    """Gives each worker thread but the first an evaluator of its own once there is lasting load.

    A thread gets its process when it has been busy for `after_s` seconds in all, and works in this process until the
    child is ready.
    """

    def __init__(self, archive: Path | None, *, after_s: float = 2.0) -> None:
        self._archive = archive
        self._after_s = after_s
        self._lock = threading.Lock()
        self._first: int | None = None
        self._busy_s: dict[int, float] = {}
        self._processes: dict[int, EvaluatorProcess] = {}
        self._closed = False

    def of_this_thread(self) -> EvaluatorProcess | None:
        """The process that is to do this thread's work, None when the thread is to do it here."""
        thread = threading.get_ident()
        with self._lock:
            if self._first is None:
                self._first = thread
            process = self._processes.get(thread)
            if process is not None and process.is_lost:
                process.close()
                del self._processes[thread]
                process = None
            busy = self._busy_s.get(thread, 0.0) > self._after_s
            if process is None and thread != self._first and busy and not self._closed:
                process = self._processes[thread] = EvaluatorProcess(self._archive)
        return process if process is not None and process.is_ready else None

    def add_busy(self, seconds: float) -> None:
        """Counts time that this thread spent on work."""
        thread = threading.get_ident()
        with self._lock:
            self._busy_s[thread] = self._busy_s.get(thread, 0.0) + seconds

    def close(self) -> None:
        """Ends all children."""
        with self._lock:
            self._closed = True
            for process in self._processes.values():
                process.close()
            self._processes.clear()


def serve_requests(connection: Connection, archive: Path | None) -> None:
    """Answers requests of the other end until it closes."""
    from m3etl.emulator.assets import open_assets
    from m3etl.emulator.evaluate import Evaluator, Usage

    evaluator = Evaluator(open_assets(archive))
    connection.send("ready")
    while True:
        method, expression, options = connection.recv()
        usage = Usage()
        started = time.thread_time()
        result: Any = None
        error: Exception | None = None
        try:
            result = getattr(evaluator, method)(expression, usage=usage, **options)
        except ServiceError as refused:
            error = refused
        except Exception as broken:
            error = RuntimeError(f"{type(broken).__name__}: {broken}")
        counted = {"scenes": usage.scenes, "bands": usage.bands, "pixels": usage.pixels, "elements": usage.elements}
        connection.send((result, error, counted, time.thread_time() - started))


def main(arguments: Sequence[str] | None = None) -> None:
    """The child: speaks over the inherited descriptor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("descriptor", type=int)
    parser.add_argument("--archive", type=Path)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(options.descriptor, False)
    with contextlib.suppress(EOFError, OSError):
        serve_requests(Connection(options.descriptor), options.archive)


if __name__ == "__main__":
    main()
