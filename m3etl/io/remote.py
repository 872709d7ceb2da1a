"""A store behind a URL: ranges fetched ahead in large pieces, kept for a while in unnamed files of bounded size.

Every shard that is read has a local file of the same size with holes; what was fetched lies at its own offset, so that
chunks are decoded from it exactly as from a local shard. What a hole or a broken copy gives fails its checksum and is
fetched once more.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from m3etl.errors import DamagedError, InputError, M3etlError
from m3etl.io.endpoints import Objects, open_objects
from m3etl.io.shards import Array, checksum_bytes, missing_mark, read_index
from m3etl.io.sources import OpenShard

fetch_threads = 16
widest_gap_bytes = 256 * 1024  # fetched although nobody asked: cheaper than one more request of some 20 ms
longest_piece_bytes = 8 * 1024 * 1024
usual_cache_bytes = 8 * 10**9
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlace:
    """Where fetched bytes are kept and how many. folder: the system's one for temporary files by default; nbytes: 8 GB
    by default, but no more than half of what is free there."""

    folder: Path | None = None
    nbytes: int | None = None

    def limit(self) -> int:
        """The bound in bytes."""
        free = shutil.disk_usage(self.folder or tempfile.gettempdir()).free // 2
        return min(free, self.nbytes or usual_cache_bytes)


def open_source(url: str, cache: CachePlace | None = None) -> RemoteSource:
    """The folder at `url`; nothing is sent yet."""
    return RemoteSource(open_objects(url.rstrip("/")), cache or CachePlace())


class RemoteShard(OpenShard):
    """A shard whose chunks come when they are fetched; `path` is only a name."""

    __slots__ = ("_fetched", "_key", "_pending", "_source", "readers")

    def __init__(self, source: RemoteSource, key: str, chunk_count: int, index: Array | None) -> None:
        self._descriptor = -1
        self._source = source
        self._key = key
        self.where = source.where(key)
        self.path = Path(self.where)
        with tempfile.TemporaryFile(dir=source.cache.folder) as file:
            self._descriptor = os.dup(file.fileno())
        self.index = self._fetch_index(chunk_count) if index is None else index
        self.extents = self.index.data
        self.mapped = 0
        self._fetched = self.index[:, 0] == missing_mark  # what is not stored need not be fetched
        self._pending: dict[int, Future[None]] = {}
        self.readers = 0

    def _fetch_index(self, chunk_count: int) -> Array:
        content, size = self._source.objects.read_tail(self._key, 16 * chunk_count + checksum_bytes)
        os.truncate(self._descriptor, size)
        self._keep(content, size - len(memoryview(content)))
        return read_index(self.where, self._descriptor, chunk_count)

    def fetch(self, positions: Sequence[int]) -> None:
        """Wait for these chunks, or fetch them now; they stay until `release`."""
        self._source.hold(self)
        for position in positions:
            coming = self._pending.get(position)
            if coming is not None:
                with contextlib.suppress(CancelledError, M3etlError):  # what failed is tried once more, and then raised
                    coming.result()
                self._pending.pop(position, None)
        pieces = self.pieces(positions)
        for piece in pieces:
            self.fetch_piece(*piece)
        if not pieces:
            self._source.used(self, 0)

    def release(self) -> None:
        """These chunks may make room for others."""
        self._source.release(self)

    def fetch_again(self, position: int) -> bool:
        """Fetch one chunk whatever is here already."""
        offset, length = self.index[position].tolist()
        self.fetch_piece(offset, offset + length, [position])
        return True

    def pieces(self, positions: Sequence[int]) -> list[tuple[int, int, list[int]]]:
        """(start, end, chunks within) of the ranges to fetch for those chunks that are neither here nor coming."""
        wanted = [
            place for place in dict.fromkeys(positions) if not self._fetched[place] and place not in self._pending
        ]
        if not wanted:
            return []
        extents = self.index[wanted].astype(np.int64)
        order = np.argsort(extents[:, 0])
        starts = extents[order, 0]
        ends = starts + extents[order, 1]
        cuts = [0]
        for place in range(1, len(wanted)):
            is_far = starts[place] - ends[place - 1] > widest_gap_bytes
            if is_far or ends[place] - starts[cuts[-1]] > longest_piece_bytes:
                cuts.append(place)
        return [
            (int(starts[first]), int(ends[last - 1]), [wanted[place] for place in order[first:last]])
            for first, last in pairwise([*cuts, len(wanted)])
        ]

    def fetch_piece(self, start: int, end: int, positions: Sequence[int]) -> None:
        """Get one range and put it into its place."""
        content = self._source.objects.read_range(self._key, start, end)
        if len(memoryview(content)) != end - start:
            raise DamagedError(f"{self.where} is cut short: it ends before byte {end}, which its index points to")
        self._keep(content, start)
        self._fetched[list(positions)] = True
        self._source.used(self, end - start)

    def _keep(self, content: Any, offset: int) -> None:
        try:
            os.pwrite(self._descriptor, content, offset)
        except OSError as error:
            folder = self._source.cache.folder or tempfile.gettempdir()
            raise InputError(
                f"cannot keep what was fetched in {folder}: {error.strerror}",
                hint="Free some space, or name another folder for temporary files with TMPDIR.",
            ) from error

    def coming(self, positions: Sequence[int], future: Future[None]) -> None:
        """These chunks are being fetched."""
        for position in positions:
            self._pending[position] = future

        def over(_: Future[None]) -> None:
            for position in positions:
                self._pending.pop(position, None)

        future.add_done_callback(over)

    def forget(self) -> None:
        """Give the disk back; chunks that are read later are fetched again."""
        self._fetched = self.index[:, 0] == missing_mark
        size = os.fstat(self._descriptor).st_size
        os.truncate(self._descriptor, 0)
        os.truncate(self._descriptor, size)


class RemoteSource:
    """A folder at a URL, see `Source`. Shards of it share one bounded cache."""

    is_remote = True

    def __init__(self, objects: Objects, cache: CachePlace) -> None:
        self.objects = objects
        self.cache = cache
        self._limit = cache.limit()
        self._most_files = min(1024, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: set[Future[None]] = set()
        self._shards: OrderedDict[RemoteShard, int] = OrderedDict()
        self._used = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return open_source, (self.objects.url, self.cache)

    @property
    def ahead_bytes(self) -> int:
        """A quarter of the cache, so that what is read and what comes next fit with room to spare."""
        return self._limit // 4

    @property
    def cached_bytes(self) -> int:
        """Bytes of shards that are kept now."""
        return self._used

    def where(self, key: str) -> str:
        """The URL of a file."""
        return f"{self.objects.url}/{key}"

    def read(self, key: str) -> bytes:
        """The content of a file."""
        self._check_process()
        return bytes(self.objects.read(key))

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Contents in the order of `keys`, many requests at a time."""

        def one(key: str) -> bytes | None:
            try:
                return self.read(key)
            except FileNotFoundError:
                return None

        return self.map(one, keys)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Results in order, of many calls at a time that wait for the other side."""
        return [function(item) for item in items] if len(items) < 2 else list(self._fetchers().map(function, items))

    def open_shard(self, key: str, chunk_count: int, index: Array | None) -> RemoteShard:
        """A shard with nothing in it yet but its index."""
        self._check_process()
        return RemoteShard(self, key, chunk_count, index)

    def prefetch(self, shards: Iterable[tuple[OpenShard, Sequence[int]]]) -> None:
        """Queue the ranges of these chunks, largest pieces first come first served."""
        pool = self._fetchers()
        for shard, positions in shards:
            if not isinstance(shard, RemoteShard):
                continue
            for start, end, within in shard.pieces(positions):
                future = pool.submit(shard.fetch_piece, start, end, within)
                shard.coming(within, future)
                self._waiting.add(future)
                future.add_done_callback(self._waiting.discard)

    def cancel(self) -> None:
        """Drop what is queued and not begun."""
        for future in list(self._waiting):
            future.cancel()

    def hold(self, shard: RemoteShard) -> None:
        """What is fetched of this shard stays until it is released as often."""
        with self._lock:
            shard.readers += 1

    def release(self, shard: RemoteShard) -> None:
        """A reader of this shard is done."""
        with self._lock:
            shard.readers -= 1
            self._make_room(None)

    def used(self, shard: RemoteShard, nbytes: int) -> None:
        """Count bytes that arrived and note the use."""
        with self._lock:
            self._shards[shard] = self._shards.get(shard, 0) + nbytes
            self._shards.move_to_end(shard)
            self._used += nbytes
            self._make_room(shard)

    def _make_room(self, newest: RemoteShard | None) -> None:
        """Forget what was not used for longest, but not what is being read."""
        while self._used > self._limit or len(self._shards) > self._most_files:
            oldest = next((one for one in self._shards if not one.readers and one is not newest), None)
            if oldest is None:
                return
            self._used -= self._shards.pop(oldest)
            oldest.forget()

    def _fetchers(self) -> ThreadPoolExecutor:
        self._check_process()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(fetch_threads, thread_name_prefix="m3etl-fetch")
            return self._pool

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise InputError(
                f"{self.objects.url} was opened before this process was forked, which clients of remote stores do not "
                "survive",
                hint='Use DataLoader(..., multiprocessing_context="spawn"), or a ChipLoader, which needs no processes.',
            )
