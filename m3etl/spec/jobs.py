"""What is decided for a chip before its pixels are asked for: its scenes, and the size of a pixel request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from m3etl.spec.modality import ArraySpec

max_request_bytes = 50_331_648  # computePixels quota, https://developers.google.com/earth-engine/guides/usage
max_request_bands = 1024
max_request_side_px = 32_768


class ArrayStatus(StrEnum):
    """Outcome of one array of one chip, as recorded in provenance."""

    OK = "ok"
    NO_SCENE = "no_scene"
    INVALID = "invalid"
    FAILED = "failed"
    PENDING = "pending"
    SOURCE_CHANGED = "source_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayScenes:
    """What one array of one chip is made of.

    scene_ids: full asset ids; time: ISO 8601 UTC of the first scene; gap_days: scene minus anchor, None without anchor;
    cloud_fraction: over the chip, None where unknown; valid_fraction: what planning promises, None where not measured;
    values: physical numbers of a vector array (None = not observed), already final, no pixel request needed.
    periods: the same for each date of an array that has several, whose gaps are to the period's own anchor; the array
    is then made of the scenes of all of them and has no time, gap and fractions of its own.
    """

    status: ArrayStatus
    scene_ids: tuple[str, ...] = ()
    time: str | None = None
    gap_days: float | None = None
    cloud_fraction: float | None = None
    valid_fraction: float | None = None
    values: tuple[float | None, ...] | None = None
    license: str = ""
    synthetic: bool = False
    periods: Mapping[str, ArrayScenes] = field(default_factory=dict)

    @classmethod
    def of_periods(cls, periods: Mapping[str, ArrayScenes]) -> ArrayScenes:
        """The array whose dates are these: there where any of them is."""
        there = [item for item in periods.values() if item.status is ArrayStatus.OK]
        licenses = sorted({item.license for item in there if item.license})
        return cls(
            status=ArrayStatus.OK if there else ArrayStatus.NO_SCENE,
            scene_ids=tuple(scene_id for item in there for scene_id in item.scene_ids),
            license=" AND ".join(licenses),
            synthetic=any(item.synthetic for item in there),
            periods=dict(periods),
        )

    @property
    def request_ids(self) -> tuple[str, ...]:
        """`scene_ids` as recipes take them: those of several periods are marked with theirs, see `split_mark`."""
        if not self.periods:
            return self.scene_ids
        return tuple(
            f"{period}:{scene_id}"
            for period, item in self.periods.items()
            if item.status is ArrayStatus.OK
            for scene_id in item.scene_ids
        )

    def without(self, scene_id: str) -> tuple[ArrayScenes, tuple[str, ...]]:
        """What is left when a scene turns out to have gone, and the periods that it takes with it."""
        gone = tuple(period for period, item in self.periods.items() if scene_id in item.scene_ids)
        changed = ArrayScenes(status=ArrayStatus.SOURCE_CHANGED)
        return ArrayScenes.of_periods({**self.periods, **dict.fromkeys(gone, changed)}), gone

    def made_of(self, request_ids: Sequence[str]) -> ArrayScenes:
        """What is left when pixels were asked for with these of `request_ids`: the periods of the others have gone."""
        if not self.periods or tuple(request_ids) == self.request_ids:
            return self
        asked = {split_mark(request_id)[0] for request_id in request_ids}
        changed = ArrayScenes(status=ArrayStatus.SOURCE_CHANGED)
        return ArrayScenes.of_periods(
            {
                period: changed if item.status is ArrayStatus.OK and period not in asked else item
                for period, item in self.periods.items()
            }
        )

    def renamed(self, names: Mapping[str, str]) -> ArrayScenes:
        """The same with other scene ids."""
        return replace(
            self,
            scene_ids=tuple(names[scene_id] for scene_id in self.scene_ids),
            periods={period: item.renamed(names) for period, item in self.periods.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object; absent keys have their defaults."""
        periods = [[period, item.to_json()] for period, item in self.periods.items()]  # a list keeps their order
        return {
            "status": str(self.status),
            "scene_ids": list(self.scene_ids),
            "time": self.time,
            "gap_days": self.gap_days,
            "cloud_fraction": self.cloud_fraction,
            "valid_fraction": self.valid_fraction,
            "values": None if self.values is None else list(self.values),
            "license": self.license,
            "synthetic": self.synthetic,
            **({"periods": periods} if periods else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArrayScenes:
        """The inverse of `to_json`."""
        values = data.get("values")
        return cls(
            status=ArrayStatus(data["status"]),
            scene_ids=tuple(data.get("scene_ids", ())),
            time=data.get("time"),
            gap_days=data.get("gap_days"),
            cloud_fraction=data.get("cloud_fraction"),
            valid_fraction=data.get("valid_fraction"),
            values=None if values is None else tuple(values),
            license=data.get("license", ""),
            synthetic=bool(data.get("synthetic", False)),
            periods={period: cls.from_json(item) for period, item in data.get("periods", ())},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipScenes:
    """The fixed decision for one chip. anchor_time: ISO 8601 UTC (1 July of the year without an anchor scene)."""

    chip_id: str
    year: int
    anchor_id: str | None
    anchor_time: str
    arrays: Mapping[str, ArrayScenes]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object."""
        return {
            "chip_id": self.chip_id,
            "year": self.year,
            "anchor_id": self.anchor_id,
            "anchor_time": self.anchor_time,
            "arrays": {name: scenes.to_json() for name, scenes in self.arrays.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ChipScenes:
        """The inverse of `to_json`."""
        return cls(
            chip_id=data["chip_id"],
            year=data["year"],
            anchor_id=data["anchor_id"],
            anchor_time=data["anchor_time"],
            arrays={name: ArrayScenes.from_json(item) for name, item in data["arrays"].items()},
        )


def request_bytes(width: int, height: int, specs: Sequence[ArraySpec]) -> int:
    """Bytes the service counts for one request: width x height x sum of (itemsize + 1 mask byte) over all bands."""
    per_pixel = sum(len(spec.bands) * (np.dtype(spec.dtype).itemsize + 1) for spec in specs)
    return width * height * per_pixel


def split_mark(request_id: str) -> tuple[str, str]:
    """Period ("" without one) and scene id of one of `ArrayScenes.request_ids`."""
    period, _, scene_id = request_id.rpartition(":")
    return period, scene_id


def field_name(array: str, band: str) -> str:
    """Name of one band in a pixel response: `sentinel1_asc__VV`; unique over arrays and legal in Earth Engine."""
    return f"{array}__{band}"
