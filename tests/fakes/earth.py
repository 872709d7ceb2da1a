"""An Earth Engine in this process for the export stage: answers planning questions and pixel requests from hashes,
with faults.

Expressions are replaced by the questions themselves, so neither the vendor's client nor a server is needed. Every
value follows from (array, band, scene ids, chip), so a swapped band, chip or scene shows.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyproj import Transformer

from m3etl.io.blocks import place_in
from m3etl.io.outcomes import Failure, RequestFailed
from m3etl.io.pixels import PixelRequest
from m3etl.io.planning import either_level
from m3etl.io.recipes import check_fields, check_scale, chip_tag
from m3etl.spec.jobs import field_name
from m3etl.spec.modality import ArraySpec, Temporal, Values
from m3etl.spec.scenes import climate_bands, day_ms, months_until, utc_ms

Trouble = Callable[[str, Any, int], "bytes | Failure | None"]


def fraction(*keys: Any) -> float:
    """A number in [0, 1) that follows from the keys."""
    digest = hashlib.sha256("|".join(map(str, keys)).encode()).digest()
    return int.from_bytes(digest[:6], "little") / 2**48


@dataclass(frozen=True)
class Question:
    """What stands in for an expression: about scenes of places, companions of anchors, or both."""

    wanted: tuple[Any, ...]
    anchored: tuple[Any, ...]
    specs: tuple[ArraySpec, ...]

    @property
    def items(self) -> tuple[Any, ...]:
        return self.wanted + self.anchored

    @property
    def kind(self) -> str:
        return "companions" if self.anchored else "scenes"


@dataclass
class FakeEarth:
    """A session. lost: share of chips without any good scene; trouble(kind, subject, nth call) may return another
    body or a failure.
    """

    lost: float = 0.0
    trouble: Trouble | None = None
    delay_s: float = 0.0
    url: str = "fake"
    local: bool = True
    embedded: bool = True
    api: Any = None
    requests: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    high_volume: bool = False
    restricted: bool = False
    profiles: int = 0
    eecu_s: float = 1.0
    is_down: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serves_values(self) -> bool:
        return not self.is_down

    def serves_pixels(self) -> bool:
        return not self.is_down

    def use_high_volume(self) -> None:
        self.high_volume = True

    @contextmanager
    def profiled(self) -> Iterator[list[str]]:
        with self._lock:
            self.profiles += 1
            name = str(self.profiles)
        yield [name]

    def eecu_seconds(self, profile_id: str) -> float:
        with self._lock:
            self.requests += 1
        return self.eecu_s * (0.5 + fraction("profile", profile_id))

    def compute_value(self, question: Question, tag: str = "") -> Any:
        self._count("plan", question)
        answer: dict[str, list[Any]] = {}
        for item in question.wanted:
            name = item.level if item.wish_ms is None else f"{item.level}_near"
            answer.setdefault(name, []).append(self._level(item, item.level))
        if question.anchored:
            answer["companions"] = [self._companions(item, question.specs) for item in question.anchored]
        return answer

    def compute_encoded(self, question: Question, tag: str = "") -> bytes:
        return json.dumps({"result": self.compute_value(question)}).encode()

    def compute_pixels(self, request: PixelRequest) -> bytes:
        time.sleep(self.delay_s)
        replaced = self._count("pixels", request)
        return replaced if replaced is not None else pixels(request)

    def _count(self, kind: str, subject: Any) -> bytes | None:
        with self._lock:
            self.requests += 1
            self.calls[kind] += 1
            name = subject.job.chip.chip_id if kind == "pixels" else kind
            self.calls[name] += 1
            number = self.calls[name]
        found = self.trouble(kind, subject, number) if self.trouble else None
        if isinstance(found, Failure):
            raise RequestFailed(found)
        return found

    def _level(self, wanted: Any, level: str) -> list[dict[str, Any]]:
        chip_id = wanted.chip.chip_id
        if level == either_level:
            processed = bool(self._level(wanted, "l2a"))
            return [{**scene, "processed": processed} for scene in self._level(wanted, "l1c")]
        if level == "l2a" and fraction(chip_id, "no l2a", wanted.start_ms) < 0.3:
            return []
        is_lost = fraction(chip_id, "lost") < self.lost
        scenes = []
        for number in range(5):
            share = fraction(chip_id, number, wanted.start_ms)
            cloud = 0.3 + 0.7 * share if is_lost or number == 0 else 0.1 * share
            time_ms = round(wanted.start_ms + share * (wanted.end_ms - wanted.start_ms - 1))
            scenes.append(
                {
                    "index": f"{chip_id}_{time_ms}",
                    "time": float(time_ms),
                    "license": None,
                    "synthetic": True,
                    "means": {"valid": 1.0, "cs": cloud, "scl": None, "qa60": None},
                    "has_score": 1,
                }
            )
        return scenes

    def _companions(self, anchored: Any, specs: tuple[ArraySpec, ...]) -> dict[str, Any]:
        chip_id = anchored.chip.chip_id
        answer: dict[str, Any] = {}
        for spec in specs:
            if spec.recipe == "sentinel1":
                answer[spec.name] = [] if fraction(chip_id, spec.name) < 0.3 else [self._pass(anchored, spec)]
            elif spec.recipe == "sentinel1_dates":
                answer[spec.name] = [
                    [] if fraction(chip_id, spec.name, time_ms) < 0.3 else [self._pass(anchored, spec, time_ms)]
                    for time_ms in anchored.dates
                ]
            elif spec.temporal is Temporal.YEAR or spec.recipe == "worldcover":
                answer[spec.name] = self._list([f"{chip_id}_{number}" for number in range(3)])
            elif spec.temporal is Temporal.STATIC:
                answer[spec.name] = [{"time": None, "license": None, "synthetic": True} for _ in spec.source]
        answer["cloud_scores"] = self._list([anchored.index] if anchored.index else [])
        answer["classifications"] = self._list([])
        answer["climate"] = [self._month(month, anchored) for month in months_until(*anchored.month)]
        for level in ("l2a", "l1c"):
            answer[f"other_{level}"] = []
        return answer

    def _pass(self, anchored: Any, spec: ArraySpec, near_ms: int | None = None) -> dict[str, Any]:
        near_ms = anchored.time_ms if near_ms is None else near_ms
        time_ms = near_ms + round(day_ms * (1 + 10 * fraction(anchored.chip.chip_id, spec.name, "gap")))
        return {
            "index": f"{spec.name}_{time_ms}",
            "time": float(time_ms),
            "license": None,
            "synthetic": True,
            "orbit": 7,
            "polarisations": ["VV", "VH"],
            "means": {"covered": 1.0},
        }

    def _list(self, indices: list[str]) -> dict[str, Any]:
        times = [utc_ms("2020-01-01T00:00:00Z") + number for number in range(len(indices))]
        return {"indices": indices, "times": times, "licenses": [], "synthetic": [True] if indices else []}

    def _month(self, month: tuple[int, int], anchored: Any) -> dict[str, Any]:
        chip_id = anchored.chip.chip_id
        time_ms = utc_ms(f"{month[0]}-{month[1]:02d}-01T00:00:00Z")
        values = {band: 270 + 20 * fraction(chip_id, month, band) for band in climate_bands[:3]}
        values[climate_bands[3]] = fraction(chip_id, month)
        points = len(anchored.points)
        return {
            "index": f"{month[0]}{month[1]:02d}",
            "time": time_ms,
            "license": None,
            "synthetic": 1,
            "values": [values] * points,
        }


def pixels(request: PixelRequest) -> bytes:
    """The NPY body of a request. A chip has the same values alone and in a block; what is between chips is fill."""
    window, chip = request.window, request.job.chip
    rows, columns = np.mgrid[window.top : window.bottom, 0 : window.width]
    fields: dict[str, Any] = {}
    for name in request.arrays:
        spec = request.job.specs[name]
        for band in spec.bands:
            if request.members:
                fields[field_name(name, band)] = _block_band(request, spec, band)
            else:
                fields[field_name(name, band)] = _band(spec, band, _keys(request.job, name, band), rows, columns)
    if request.check:
        x, y = chip.xmin + (columns + 0.5) * 10.0, chip.ymax - (rows + 0.5) * 10.0
        lon, lat = Transformer.from_crs(f"EPSG:{chip.epsg}", "EPSG:4326", always_xy=True).transform(x, y)
        tag = np.full(rows.shape, chip_tag(chip.chip_id))
        for name, values in zip(check_fields, (lon * check_scale, lat * check_scale, tag), strict=True):
            fields[name] = np.rint(values).astype(np.int32)
    body = np.empty(rows.shape, dtype=[(name, values.dtype) for name, values in fields.items()])
    for name, values in fields.items():
        body[name] = values
    stream = io.BytesIO()
    np.save(stream, body)
    return stream.getvalue()


def _block_band(request: PixelRequest, spec: ArraySpec, band: str) -> Any:
    values = np.full((request.window.bottom, request.window.width), spec.fill_value(), dtype=spec.dtype)
    for job in request.members:
        row, column = place_in(request.job.chip, job.chip)
        side = job.chip.pixels(spec)
        rows, columns = np.mgrid[0:side, 0:side]
        keys = _keys(job, spec.name, band)
        values[row * side : (row + 1) * side, column * side : (column + 1) * side] = _band(
            spec, band, keys, rows, columns
        )
    return values


def _keys(job: Any, name: str, band: str) -> tuple[Any, ...]:
    """What a band's values follow from: chip and scenes, those of its own period where there are several."""
    scenes = job.scenes[name]
    period = band.partition("_")[0]
    return (job.chip.chip_id, *(scenes.periods[period] if scenes.periods else scenes).scene_ids)


def _band(spec: ArraySpec, band: str, keys: tuple[Any, ...], rows: Any, columns: Any) -> Any:
    if spec.periods and len(keys) == 1:
        return np.full(rows.shape, spec.fill, dtype=spec.dtype)
    if spec.recipe == "sentinel1" and band in ("HH", "HV"):
        return np.full(rows.shape, spec.fill, dtype=spec.dtype)
    start = fraction(spec.name, band, *keys)
    wave = (start + (rows * 7 + columns * 3) % 101 / 101.0) % 1.0
    if spec.values is Values.CLASSES:
        codes = np.array([item.code for item in spec.classes])
        return codes[(wave * len(codes)).astype(int)].astype(spec.dtype)
    low, high = max(spec.stored_min, 0), min(spec.stored_max, 10_000)
    values = np.rint(low + wave * (high - low)).astype(spec.dtype)
    return np.where(columns < 3, np.dtype(spec.dtype).type(spec.fill), values) if spec.recipe == "sentinel1" else values


def install(monkeypatch: Any) -> None:
    """Let the export stage ask questions instead of building expressions."""
    from m3etl.stages import fetching, planning

    def question(self: Any, wanted: Any, anchored: Any) -> Question:
        return Question(tuple(wanted), tuple(anchored), self.specs)

    monkeypatch.setattr(planning.Questions, "expression", question)
    monkeypatch.setattr(fetching.RequestBodies, "body", lambda self, request: request)
