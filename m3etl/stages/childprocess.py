"""Part of a stage in a process of its own, which ends when the one that started it does."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from m3etl.errors import M3etlError
from m3etl.io.garbage import rare_searches

many_chips = 1000  # below that a child, which takes half a second to load, is not worth it
loading_s = 30.0
niceness = 5  # requests in flight come first

Serves = Callable[[Connection, "queue.SimpleQueue[Any]"], None]


class ChildProcess:
    """`python -m module`, at the other end of `connection`. It is ready when its first message is there: "ready".
    Raises OSError where it cannot be started.
    """

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", module, str(theirs.fileno())]
        with ours, theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the parent, which ends what was begun
            )
            self.connection = Connection(ours.detach())
        self._is_ready = self.is_lost = False

    @property
    def is_ready(self) -> bool:
        """Whether it has loaded and is not lost."""
        if not self._is_ready and not self.is_lost:
            try:
                self._is_ready = self.connection.poll() and self.connection.recv() == "ready"
            except (EOFError, OSError):
                self.is_lost = True
        return self._is_ready and not self.is_lost

    def is_ready_within(self, seconds: float) -> bool:
        """Whether it has loaded, waiting for it at most so long, and is not lost."""
        with contextlib.suppress(OSError):
            self.is_ready or self.is_lost or self.connection.poll(seconds)
        return self.is_ready

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self.connection.close()


def run_child(serve: Serves) -> None:
    """What a child's module does: `serve` with the connection and what comes from it, until the other end closes. That
    ends this process at once, for the next run may be here already.
    """
    os.nice(niceness)
    os.set_inheritable(int(sys.argv[1]), False)
    with rare_searches():
        serve_connection(Connection(int(sys.argv[1])), serve)


def serve_connection(connection: Connection, serve: Serves, on_end: Callable[[], None] = lambda: os._exit(0)) -> None:
    """The same over a given connection. on_end: called when the other end is gone, or this one cannot go on."""
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, messages, on_end), daemon=True).start()
    try:
        with contextlib.suppress(OSError):  # the other end is gone
            connection.send("ready")
            serve(connection, messages)
    finally:
        on_end()


def sendable(error: Exception) -> Exception:
    """An error as another process can read it."""
    return error if isinstance(error, M3etlError) else RuntimeError(f"{type(error).__name__}: {error}")


def _receive(connection: Connection, messages: queue.SimpleQueue[Any], on_end: Callable[[], None]) -> None:
    try:
        with contextlib.suppress(EOFError, OSError):  # the other end is gone
            while True:
                messages.put(connection.recv())
    finally:
        on_end()
