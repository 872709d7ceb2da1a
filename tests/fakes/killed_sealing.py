"""Seals the same shard again and again, each time in a child that kills itself (-9) at a given byte, flush or rename.

`python killed_sealing.py DIRECTORY bytes:1200 fsync:3 replace:2 ...` leaves DIRECTORY/0, DIRECTORY/1, ... behind.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.chips import chip_m, few_specs, make_chips

from m3etl.io.shards import ShardWriter
from m3etl.io.store import create_store, grow_store, seal_shard

chips = 4


def main(directory: Path, points: list[str]) -> None:
    """One store for each point of death."""
    for number, point in enumerate(points):
        path = directory / str(number)
        create_store(path, few_specs, chip_m=chip_m, shard_chips=chips)
        grow_store(path, chips)
        child = os.fork()
        if child == 0:
            kind, count = point.split(":")
            arm(kind, int(count))
            seal_shard(path, 0, make_chips(few_specs, chips), threads=2)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{point} was never reached: status {status}")


def arm(kind: str, count: int) -> None:
    """Die when `count` bytes of shards are written, or at the flush or rename of that number."""
    if kind == "bytes":
        left = [count]

        def append(writer: ShardWriter, position: int, chunk: bytes) -> None:
            if len(chunk) >= left[0]:
                writer._file.write(chunk[: left[0]])
                writer._file.flush()
                die()
            left[0] -= len(chunk)
            original(writer, position, chunk)

        original, ShardWriter.append = ShardWriter.append, append
    else:
        owner: Any = os if kind == "fsync" else Path
        setattr(owner, kind, counting(getattr(owner, kind), count))


def counting(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`function`, which dies instead at its call of this number."""
    calls = iter(range(1, 10_000))

    def counted(*arguments: Any) -> Any:
        if next(calls) >= count:
            die()
        return function(*arguments)

    return counted


def die() -> None:
    """As kill -9 does it."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
