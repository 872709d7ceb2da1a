"""Where the bytes of a store come from: a directory here, `io.remote` has the other. Keys are relative, with "/"."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from m3etl.io.mapping import MappingBudget
from m3etl.io.shards import Array, ShardFile

side_threads = 8  # that read many small files at once: enough for a disk that is asked for the first time
files_per_task = 64
Item = TypeVar("Item")
Result = TypeVar("Result")


class OpenShard(ShardFile):
    """A shard that many threads read; its name for people is `where`. extents: the index, quick to look into; mapped:
    address of the file in memory, or 0."""

    __slots__ = ("__weakref__", "extents", "mapped", "where")

    def __init__(self, path: Path, chunk_count: int, index: Array | None = None) -> None:
        super().__init__(path, chunk_count, index)
        self.where = str(path)
        self.extents = self.index.data
        self.mapped = 0

    @property
    def descriptor(self) -> int:
        """The open file, for reading with `index`."""
        return self._descriptor

    def fetch(self, positions: Sequence[int]) -> None:
        """Have these chunks in the file from when this returns until `release`, as often as it was called."""

    def release(self) -> None:
        """One reader needs them no more."""

    def fetch_again(self, position: int) -> bool:
        """Get a chunk that was bad once more; False where that can't help."""
        return False


class Source(Protocol):
    """A folder of files that can be read but not listed."""

    def where(self, key: str) -> str:
        """Path or URL of a file, for messages."""
        ...

    def read(self, key: str) -> bytes:
        """A whole small file; FileNotFoundError where there is none, RemoteError where it can't be had."""
        ...

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several small files at once; None for those that do not exist."""
        ...

    def open_shard(self, key: str, chunk_count: int, index: Array | None) -> OpenShard:
        """A shard for reading; FileNotFoundError where there is none, DamagedError where its index is wrong."""
        ...

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of each item, in order; at once where it waits for another machine."""
        ...

    def prefetch(self, shards: Iterable[tuple[OpenShard, Sequence[int]]]) -> None:
        """Begin to have these chunks at hand, without waiting for them."""
        ...

    def cancel(self) -> None:
        """Drop what was to be prefetched and was not begun."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether chunks must be fetched before they are read, far ahead and in large pieces."""
        ...

    @property
    def ahead_bytes(self) -> int:
        """How far ahead to read at most, in bytes of decoded chips."""
        ...


class LocalSource:
    """A directory of this machine."""

    is_remote = False
    ahead_bytes = 0  # as many batches as the reader was told, whatever their size

    def __init__(self, root: Path) -> None:
        self.root = root
        self._text = str(root)
        self._mappings = MappingBudget()

    def __reduce__(self) -> tuple[type[LocalSource], tuple[Path]]:
        return LocalSource, (self.root,)

    def where(self, key: str) -> str:
        """The path."""
        return f"{self._text}/{key}"

    def read(self, key: str) -> bytes:
        """The content of a file."""
        descriptor = os.open(self.where(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            return os.pread(descriptor, size, 0)
        finally:
            os.close(descriptor)

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Contents in the order of `keys`, read by a few threads where there are many."""
        if len(keys) <= files_per_task:
            return [self._read_if_there(key) for key in keys]
        parts = [keys[first : first + files_per_task] for first in range(0, len(keys), files_per_task)]
        with ThreadPoolExecutor(side_threads) as pool:
            found = list(pool.map(lambda part: [self._read_if_there(key) for key in part], parts))
        return [content for part in found for content in part]

    def open_shard(self, key: str, chunk_count: int, index: Array | None) -> OpenShard:
        """The file itself."""
        shard = OpenShard(Path(self.where(key)), chunk_count, index)
        shard.mapped = self._mappings.map(shard.descriptor, shard)
        return shard

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """One after the other."""
        return [function(item) for item in items]

    def cancel(self) -> None:
        """Nothing: the kernel was only advised."""

    def prefetch(self, shards: Iterable[tuple[OpenShard, Sequence[int]]]) -> None:
        """Ask the kernel to read the chunks ahead."""
        for shard, positions in shards:
            for position in positions:
                shard.advise(position)

    def _read_if_there(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except FileNotFoundError:
            return None
