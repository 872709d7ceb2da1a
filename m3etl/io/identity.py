"""The dataset_id: a name for exactly this content, for statistics, checkpoints, cards and the Hub tag."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from m3etl.io.layout import StoreLayout, chip_columns, read_layout, shard_path
from m3etl.io.shards import write_file
from m3etl.io.workers import usable_cores
from m3etl.spec.catalog import catalogue_digest

most_threads = 16
Known = dict[str, list[Any]]  # file in the store -> size, time of change in nanoseconds, sha256


def dataset_id(path: Path) -> str:
    """sha256 (hex) over sorted (array, shard, sha256 of its file), per-chip columns included, and the catalogue hash.

    Two stores with the same id hold the same chips, splits and values. Nothing is decoded; files whose size and time of
    change are as before are not read again (their checksums are kept in a hidden file beside the store).
    """
    layout = read_layout(path)
    memory = path.with_name(f".{path.name}.checksums.json")
    known = _read_known(memory)
    files = sorted(_files(path, layout))
    with ThreadPoolExecutor(min(most_threads, usable_cores())) as pool:
        entries = list(pool.map(lambda item: _entry(item[2], known.get(str(item[2].relative_to(path)))), files))
    total = hashlib.sha256(catalogue_digest(layout.specs.values()).encode())
    seen: Known = {}
    for (name, shard, file), entry in zip(files, entries, strict=True):
        if entry is not None:
            seen[str(file.relative_to(path))] = entry
            total.update(f"\n{name} {shard} {entry[2]}".encode())
    if seen != known:
        with contextlib.suppress(OSError):  # a read-only place only costs the time to read again
            write_file(memory, json.dumps(seen).encode())
    return total.hexdigest()


def _entry(file: Path, known: list[Any] | None) -> list[Any] | None:
    """Size, time of change and sha256 of a file; None where there is none."""
    try:
        status = file.stat()
        if known is not None and known[:2] == [status.st_size, status.st_mtime_ns]:
            return known
        return [status.st_size, status.st_mtime_ns, _file_digest(file)]
    except FileNotFoundError:
        return None


def _files(path: Path, layout: StoreLayout) -> Iterator[tuple[str, int, Path]]:
    for shard in range(layout.shard_count):
        for name in layout.specs:
            yield name, shard, shard_path(path, layout, name, shard)
        for column in chip_columns:
            yield column, shard, path / column / f"c.{shard}"


def _read_known(memory: Path) -> Known:
    try:
        found = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
