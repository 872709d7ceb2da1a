"""Sealing beside fetching, in a process of its own: what a chip needs to be decoded, checked and packed would share one
interpreter's lock with the requests in flight. Small runs never start it.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

from m3etl.errors import M3etlError
from m3etl.stages.shardwork import ShardWork, seal_work

Sealed = tuple[int, int]


class SealingProcess:
    """Runs `seal_work` for one thread: here, and in a child once that has taken `after_s` seconds and the child has
    loaded. What a child does that is lost is done here; a child ends when its parent does.
    """

    def __init__(self, *, after_s: float = 1.0) -> None:
        self._after_s = after_s if len(os.sched_getaffinity(0)) > 1 else float("inf")
        self._busy_s = 0.0
        self._child: _Child | None = None

    def seal(self, work: ShardWork) -> Sealed:
        """See `seal_work`; raises what it raises."""
        if self._child is None and self._busy_s >= self._after_s:
            self._child = _Child()
        if self._child is not None and self._child.is_ready:
            done = self._child.seal(work)
            if done is not None:
                return done
        started = time.monotonic()
        try:
            return seal_work(work)
        finally:
            self._busy_s += time.monotonic() - started

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()


class _Child:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "m3etl.stages.sealingprocess", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._connection = Connection(ours.detach())
        self._is_ready = self._is_lost = False

    @property
    def is_ready(self) -> bool:
        if not self._is_ready and not self._is_lost:
            try:
                self._is_ready = self._connection.poll() and self._connection.recv() == "ready"
            except (EOFError, OSError):
                self._is_lost = True
        return self._is_ready and not self._is_lost

    def seal(self, work: ShardWork) -> Sealed | None:
        """None when the child was lost over it."""
        try:
            self._connection.send(work)
            done: Sealed | Exception = self._connection.recv()
        except (EOFError, OSError):
            self._is_lost = True
            return None
        if isinstance(done, Exception):
            raise done
        return done

    def close(self) -> None:
        self._connection.close()
        self._process.wait()


def serve_work(connection: Connection) -> None:
    """Seal what the other end sends until it closes, which ends this process at once."""
    tasks: queue.SimpleQueue[ShardWork] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, tasks), daemon=True).start()
    connection.send("ready")
    while True:
        done: Sealed | Exception
        try:
            done = seal_work(tasks.get())
        except Exception as error:
            done = error if isinstance(error, M3etlError) else RuntimeError(f"{type(error).__name__}: {error}")
        connection.send(done)


def _receive(connection: Connection, tasks: queue.SimpleQueue[ShardWork]) -> None:
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone, and the next run may be here already


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends what was begun
    os.set_inheritable(int(sys.argv[1]), False)
    serve_work(Connection(int(sys.argv[1])))
