"""The state behind the routes: evaluator, assets, batch queue, buckets, and what clients come back for by name."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from m3etl.emulator.batch import OperationQueue
from m3etl.emulator.buckets import Buckets
from m3etl.emulator.evaluator_process import Helping
from m3etl.emulator.exports import Exporter
from m3etl.emulator.listing import AssetJson
from m3etl.emulator.messages import Account
from m3etl.emulator.model import AssetSource
from m3etl.emulator.operations import Operation
from m3etl.emulator.pixels import Counting, Evaluating
from m3etl.emulator.work import Workers

T = TypeVar("T")

_profile_header = " EECU·s PeakMem  Count  Description"


class Remembered(Generic[T]):
    """A bounded, thread-safe store of recent things by name; the least recently used goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, name: str, item: T) -> None:
        """Remembers `item`."""
        with self._lock:
            self._items[name] = item
            self._items.move_to_end(name)
            while len(self._items) > self._size:
                self._items.popitem(last=False)

    def get(self, name: str) -> T | None:
        """The item, or None when it was never there or is forgotten."""
        with self._lock:
            if name in self._items:
                self._items.move_to_end(name)
            return self._items.get(name)


class Service:
    """One embedded Earth Engine. The assets and the evaluator are made on first use, or by `warm_up`."""

    def __init__(
        self,
        *,
        state_dir: Path,
        open_assets: Callable[[], AssetSource],
        make_evaluator: Callable[[AssetSource], Evaluating],
        asset_json: AssetJson | None = None,
        make_usage: Callable[[], Counting] | None = None,
        workers: Workers | None = None,
        helping: Helping | None = None,
        on_crash: Callable[[Operation, BaseException], None] | None = None,
    ) -> None:
        self._open_assets = open_assets
        self._make_evaluator = make_evaluator
        self._asset_json = asset_json
        self._make_usage = make_usage
        self._making = threading.RLock()
        self.workers = workers or Workers()
        self._helping = helping
        self.exporter = Exporter(self.work, state_dir)
        self.operations = OperationQueue(state_dir / "operations", self.exporter.run, on_crash=on_crash)
        self.buckets = Buckets(state_dir / "buckets")
        self.requests: Remembered[Mapping[str, Any]] = Remembered(4_096)
        self.profiles: Remembered[dict[str, Any]] = Remembered(16_384)
        self.pages: Remembered[Sequence[dict[str, Any]]] = Remembered(8)

    @property
    def assets(self) -> AssetSource:
        """Where assets come from."""
        with self._making:
            return self._assets

    @property
    def evaluator(self) -> Evaluating:
        """The evaluator of expression graphs over the assets."""
        with self._making:
            return self._evaluator

    @cached_property
    def _assets(self) -> AssetSource:
        return self._open_assets()

    @cached_property
    def _evaluator(self) -> Evaluating:
        return self._make_evaluator(self._assets)

    @cached_property
    def asset_json(self) -> AssetJson:
        """Describes an image as an EarthEngineAsset."""
        if self._asset_json is not None:
            return self._asset_json
        from m3etl.emulator.evaluate import asset_json

        return asset_json

    def work(
        self,
        account: Account,
        function: Callable[[Evaluating, Counting], T],
        limit_s: float | None = None,
    ) -> T:
        """Runs `function` of the evaluator in a worker thread and charges what it costs. Raises what it raises."""
        usage = self._new_usage()
        try:
            return self.workers.run(lambda: self._evaluate(account, function, usage), account=account, limit_s=limit_s)
        finally:
            account.scenes += usage.scenes

    def _evaluate(self, account: Account, function: Callable[[Evaluating, Counting], T], usage: Counting) -> T:
        """`function` of the evaluator of this worker thread: the one of this process, or a process of its own."""
        if self._helping is None:
            return function(self.evaluator, usage)
        process = self._helping.of_this_thread()
        started, spent = time.monotonic(), 0.0 if process is None else process.cpu_s
        try:
            return function(process or self.evaluator, usage)
        finally:
            self._helping.add_busy(time.monotonic() - started)
            if process is not None:
                account.eecu_s += process.cpu_s - spent

    def _new_usage(self) -> Counting:
        if self._make_usage is not None:
            return self._make_usage()
        from m3etl.emulator.evaluate import Usage

        return Usage()

    def start(self) -> None:
        """Starts the batch queue; operations left by an earlier server go on."""
        self.operations.start()

    def close(self) -> None:
        """Stops the batch queue after the block at hand, and the processes that help."""
        self.operations.close()
        if self._helping is not None:
            self._helping.close()

    def remember(self, kind: str, project: str, body: Mapping[str, Any]) -> str:
        """Keeps a request for later and gives its resource name, projects/P/<kind>/<a>-<b>."""
        name = f"projects/{project}/{kind}/{secrets.token_hex(16)}-{secrets.token_hex(16)}"
        self.requests.put(name, body)
        return name

    def add_profile(self, description: str, account: Account) -> str:
        """Keeps what a request cost and gives the id of the profile."""
        identifier = secrets.token_hex(16)
        self.profiles.put(
            identifier,
            {
                "id": identifier,
                "description": description,
                "eecuSeconds": account.eecu_s,
                "peakMemoryBytes": account.nbytes,
                "count": 1,
            },
        )
        return identifier

    def describe_profiles(self, ids: Sequence[str], file_format: str) -> str:
        """The profiles of earlier requests as the service's text table, or as JSON text."""
        entries = [entry for entry in map(self.profiles.get, ids) if entry is not None]
        if file_format == "json":
            return json.dumps({"profiles": entries})
        lines = [
            f"{entry['eecuSeconds']:7.3f} {_bytes_text(entry['peakMemoryBytes']):>7} "
            f"{entry['count']:6d}  {entry['description']}"
            for entry in entries
        ]
        return "\n".join([_profile_header, *lines, ""])


def _bytes_text(size: int) -> str:
    for unit in ("", "k", "M"):
        if size < 1000:
            return f"{size:.0f}{unit}"
        size //= 1000
    return f"{size}G"
