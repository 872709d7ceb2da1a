"""Sealing beside fetching, in a process of its own: what a chip needs to be decoded, checked and packed would share one
interpreter's lock with the requests in flight. Small runs never start it.
"""

from __future__ import annotations

import contextlib
import queue
import time
from multiprocessing.connection import Connection

from m3etl.io.workers import usable_cores
from m3etl.stages.childprocess import ChildProcess, loading_s, many_chips, run_child, sendable
from m3etl.stages.shardwork import ShardWork, seal_work

Sealed = tuple[int, int]


class SealingProcess:
    """Runs `seal_work` for one thread: here, and in a child once that has taken `after_s` seconds and the child has
    loaded, or from the first shard on where many chips are expected. What a child does that is lost is done here; a
    child ends when its parent does.
    """

    def __init__(self, *, after_s: float = 1.0) -> None:
        self._after_s = after_s if usable_cores() > 1 else float("inf")
        self._busy_s = self._waits_s = 0.0
        self._child: ChildProcess | None = None

    def expect(self, chips: int) -> None:
        """So many chips are to be sealed; sealing the first of many here would hold up the requests in flight."""
        if chips >= many_chips and self._after_s < float("inf"):
            self._after_s, self._waits_s = 0.0, loading_s

    def seal(self, work: ShardWork) -> Sealed:
        """See `seal_work`; raises what it raises."""
        if self._child is None and self._busy_s >= self._after_s:
            with contextlib.suppress(OSError):  # without it everything is sealed here
                self._child = ChildProcess("m3etl.stages.sealingprocess")
        if self._child is not None and self._child.is_ready_within(self._waits_s):
            done = _seal_there(self._child, work)
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


def _seal_there(child: ChildProcess, work: ShardWork) -> Sealed | None:
    """None when the child was lost over it."""
    try:
        child.connection.send(work)
        done: Sealed | Exception = child.connection.recv()
    except (EOFError, OSError):
        child.is_lost = True
        return None
    if isinstance(done, Exception):
        raise done
    return done


def _serve(connection: Connection, tasks: queue.SimpleQueue[ShardWork]) -> None:
    while True:
        done: Sealed | Exception
        try:
            done = seal_work(tasks.get())
        except Exception as error:
            done = sendable(error)
        connection.send(done)


if __name__ == "__main__":
    run_child(_serve)
