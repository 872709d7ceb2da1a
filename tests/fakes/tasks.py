"""Earth Engine's export tasks and a bucket on the local disk: pixels follow from the same hashes as in `fakes.earth`.

Operations are files, so that they outlive the process that asked for them, as they do at the real service.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from fakes.earth import _band
from obstore.store import LocalStore

from m3etl.io.exports import Operation, file_stem, folder_of
from m3etl.io.objects import Bucket, BucketPlace
from m3etl.io.outcomes import Failure, RequestFailed
from m3etl.spec.catalog import find_array
from m3etl.spec.exporttasks import ExportTask, request_id
from m3etl.spec.jobs import field_name, split_mark

place = BucketPlace(name="a-bucket", prefix="deep/")
Trouble = Callable[[str, Any, int], "Failure | Operation | None"]


@dataclass
class FakeTasks:
    """An ExportService below `root`. trouble(kind, subject, nth call) may return a failure (of `submit`, `look`), or
    the end of an operation (`run`); spoil(path, task, attempt) may change the files of an export; slow: looks at an
    operation before it ends.
    """

    root: Path
    trouble: Trouble | None = None
    spoil: Callable[[Path, ExportTask, int], None] | None = None
    slow: int = 0
    limit: int = 3
    queue: int = 3000
    calls: Counter[str] = field(default_factory=Counter)
    cancelled: list[str] = field(default_factory=list)
    peak: int = 0

    def running_limit(self) -> int:
        return self.limit

    def submit(self, job: str, attempt: int, task: ExportTask) -> str:
        self._may_fail("submit", task)
        path = self._operations / f"{request_id(job, attempt)}.json"
        if not path.exists():
            if len(self.waiting()) >= self.queue:
                raise RequestFailed(Failure(kind="rate", message="Too many tasks already in the queue", status=429))
            self._log("started", job, attempt)
            self._write(path, {"job": job, "attempt": attempt, "task": task.to_json(), "looks": 0, "done": False})
            self.peak = max(self.peak, len(self.waiting()))
        return path.stem

    def look(self, name: str) -> Operation:
        self._may_fail("look", name)
        path = self._operations / f"{name}.json"
        known = json.loads(path.read_text())
        task = ExportTask.from_json(known["task"])
        if not known["done"] and known["looks"] < self.slow:
            self._write(path, {**known, "looks": known["looks"] + 1})
            return Operation(name=name, done=False)
        self.calls[known["job"]] += not known["done"]
        found = self.trouble("run", task, known["attempt"]) if self.trouble else None
        if isinstance(found, Operation):
            if found.done:
                self._write(path, {**known, "done": True})
            return found
        if not known["done"]:
            self._export(task, known["job"], known["attempt"])
            self._write(path, {**known, "done": True})
        return Operation(name=name, done=True, eecu_seconds=2.0)

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)

    def waiting(self) -> list[Path]:
        """Operations that are not done."""
        return [path for path in self._operations.glob("*.json") if not json.loads(path.read_text())["done"]]

    def started(self) -> list[tuple[str, int]]:
        """(job, attempt) of every operation that was started, in order."""
        log = self.root / "started"
        return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []

    def bucket(self) -> Bucket:
        """The bucket that the exports go to."""
        folder = self.root / "buckets" / place.name
        folder.mkdir(parents=True, exist_ok=True)
        return Bucket(LocalStore(folder), place, str(folder.parent), lambda: "token")

    @property
    def _operations(self) -> Path:
        folder = self.root / "operations"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _may_fail(self, kind: str, subject: Any) -> None:
        self.calls[kind] += 1
        found = self.trouble(kind, subject, self.calls[kind]) if self.trouble else None
        if isinstance(found, Failure):
            raise RequestFailed(found)

    def _export(self, task: ExportTask, job: str, attempt: int) -> None:
        path = self.root / "buckets" / place.name / place.prefix / folder_of(job, attempt) / f"{file_stem}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_export(path, task)
        if self.spoil is not None:
            self.spoil(path, task, attempt)

    def _log(self, name: str, *values: Any) -> None:
        with (self.root / name).open("a") as file:
            file.write(json.dumps(values) + "\n")

    def _write(self, path: Path, value: Any) -> None:
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(value))
        os.rename(temporary, path)


def _scenes_of(task: ExportTask, name: str, band: str) -> list[str]:
    """The scenes that a band is made of: those of its own period where the array has several dates."""
    marked = [split_mark(request_id) for request_id in task.scenes[name]]
    return [scene_id for period, scene_id in marked if period in ("", band.partition("_")[0])]


def write_export(path: Path, task: ExportTask, **changes: Any) -> None:
    """The file that an export leaves: what the pixel lane would get for each of its chips, other values elsewhere."""
    bands = [(name, band) for name in task.scenes for band in find_array(name).bands]
    spec = find_array(next(iter(task.scenes)))
    values = np.full((len(bands), task.height, task.width), 7, dtype=spec.dtype)
    rows, columns = np.mgrid[0 : task.side, 0 : task.side]
    for chip_id, column, row in task.chips:
        window = np.s_[row * task.side : (row + 1) * task.side, column * task.side : (column + 1) * task.side]
        for number, (name, band) in enumerate(bands):
            values[number][window] = _band(
                find_array(name), band, (chip_id, *_scenes_of(task, name, band)), rows, columns
            )
    a, b, c, d, e, f = task.affine
    profile = {
        "driver": "GTiff",
        "crs": f"EPSG:{task.epsg}",
        "transform": rasterio.Affine(a, b, c, d, e, f),
        "width": task.width,
        "height": task.height,
        "count": len(bands),
        "dtype": spec.dtype,
        "compress": "deflate",
        "blockysize": 16,
        **changes,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values.astype(profile["dtype"])[:, : profile["height"], : profile["width"]])
        file.descriptions = tuple(field_name(name, band) for name, band in bands)
