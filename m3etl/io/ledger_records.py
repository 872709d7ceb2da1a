"""What the ledger knows about chips and shards, as values; which chips a run is about."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.io.segments import Place
from m3etl.spec.jobs import ArrayStatus, ChipScenes

Inside = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], npt.NDArray[np.bool_]]  # of (lon, lat)
Row = tuple[Any, ...]


class ChipState(StrEnum):
    """Where a chip stands. RESERVE: it stands in for others and was not asked about yet."""

    WAITING = "waiting"
    RESERVE = "reserve"
    UNUSABLE = "unusable"
    PLANNED = "planned"
    LANDED = "landed"
    FAILED = "failed"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChip:
    """The decision about one chip as it is stored: its packed scenes, or none when it is unusable. origin: earthengine,
    archive or planet.
    """

    chip_id: str
    document: bytes | None
    origin: str = ""

    @classmethod
    def of(cls, chip_id: str, scenes: ChipScenes | None, origin: str = "") -> PlannedChip:
        """The decision for these scenes."""
        return cls(chip_id=chip_id, document=None if scenes is None else packed(scenes.to_json()), origin=origin)

    @property
    def scenes(self) -> ChipScenes | None:
        """What is stored, unpacked."""
        return None if self.document is None else unpacked(self.document)


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedChip:
    """A chip whose bytes are durable. statuses: arrays whose outcome differs from the plan; valid: valid fraction per
    array.
    """

    chip_id: str
    place: Place | None
    statuses: Mapping[str, ArrayStatus]
    valid: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipRecord:
    """One chip as the ledger knows it. lon, lat: centre in degrees; kind, reason: of its last failure, "" without."""

    chip_id: str
    state: ChipState
    row: int
    generation: int
    lon: float
    lat: float
    split: str
    scenes: ChipScenes
    origin: str
    kind: str
    reason: str
    statuses: Mapping[str, ArrayStatus]
    place: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard: its chips, how many of them are final, whether it is sealed."""

    shard: int
    generation: int
    chips: int
    final: int
    sealed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which chips a run is about: those whose centre lies `inside`, and `only` those that failed before as this kind or
    with this text in the reason.
    """

    inside: Inside | None = None
    only: str = ""

    def among(self, batch: Sequence[Row], *, lon: int, kind: int) -> Sequence[Row]:
        """Those of some rows of a query that are chosen; their columns from `lon` are lon, lat, from `kind` kind,
        reason.
        """
        if self.only:
            batch = [item for item in batch if item[kind] and fails_as(item[kind], item[kind + 1], self.only)]
        if self.inside is None or not batch:
            return batch
        places = (np.array([item[column] for item in batch], dtype=np.float64) for column in (lon, lon + 1))
        return [batch[index] for index in np.flatnonzero(self.inside(*places)).tolist()]


everything = Chosen()


def fails_as(kind: str, reason: str, only: str) -> bool:
    """Whether a failure is of the kind, or has a reason that contains the text, that is asked for; "" asks for all."""
    return not only or kind == only or only.casefold() in f"{kind}: {reason}".casefold()


record_query = (
    "SELECT chip_id, state, row, generation, lon, lat, split, document, origin, kind, reason, statuses, segment, "
    "offset, length FROM chips LEFT JOIN scenes USING (number)"
)

# Of a chip that is decided: whether it was found usable. NULL before.
has_scenes = (
    "CASE WHEN state IN ('waiting', 'reserve') THEN NULL "
    "ELSE EXISTS (SELECT 1 FROM scenes WHERE scenes.number = chips.number) END"
)


def packed(document: Mapping[str, Any]) -> bytes:
    """A JSON object as it is stored: compressed, with sorted keys."""
    return zlib.compress(json.dumps(document, separators=(",", ":"), sort_keys=True).encode(), 6)


def unpacked(document: bytes) -> ChipScenes:
    """The decision about a chip from what is stored of it."""
    return ChipScenes.from_json(json.loads(zlib.decompress(document)))


def _undecided(chip_id: str) -> ChipScenes:
    return ChipScenes(chip_id=chip_id, year=0, anchor_id=None, anchor_time="", arrays={})


def record_of(item: Row) -> ChipRecord:
    """One row of `record_query` as a record."""
    chip_id, state, row, generation, lon, lat, split, scenes, origin, kind, reason, statuses, *place = item
    return ChipRecord(
        chip_id=chip_id,
        state=ChipState(state),
        row=row,
        generation=generation,
        lon=math.nan if lon is None else lon,
        lat=math.nan if lat is None else lat,
        split=split,
        scenes=_undecided(chip_id) if scenes is None else unpacked(scenes),
        origin=origin,
        kind=kind,
        reason=reason,
        statuses={name: ArrayStatus(status) for name, status in json.loads(statuses).items()},
        place=None if place[0] is None else Place(segment=place[0], offset=place[1], length=place[2]),
    )
