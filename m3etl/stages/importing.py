"""Arrays that come from elsewhere than Earth Engine, put beside what is sealed: the rows stay, each shard gains files.

A shard counts as done when its provenance names the arrays; what a killed run left of one is made anew. The store's
metadata names the arrays when all its shards have them, so that readers never see half of them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.campaign import Campaign, store_locked
from m3etl.errors import InputError
from m3etl.io.columns import read_column_chunk
from m3etl.io.layout import StoreLayout, chip_columns, read_layout, shard_path
from m3etl.io.ledger import Ledger, open_ledger
from m3etl.io.pixels import final_status
from m3etl.io.provenance import ProvenanceRow, read_provenance, write_provenance
from m3etl.io.store import SealedChip, create_store, seal_shard
from m3etl.spec.jobs import ArrayStatus
from m3etl.spec.modality import ArraySpec
from m3etl.stages.cutting import ChipPlace
from m3etl.stages.summary import Progress
from m3etl.stages.tile import valid_fraction

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedArray:
    """One array of one chip. values: as stored, None where no source meets the chip; sources: names of files or
    products; time: UTC, of the first of them; license: of the values, that of the array where it is empty.
    """

    values: Array | None
    sources: tuple[str, ...] = ()
    time: datetime | None = None
    license: str = ""


Make = Callable[[ChipPlace, datetime | None], Mapping[str, ImportedArray]]  # of a chip and its anchor's time


@dataclass(slots=True)
class ImportCounts:
    """What an import did: chips, shards done now and before, and how many chips have each status, by array."""

    statuses: Counter[tuple[str, str]]
    chips: int = 0
    shards: int = 0
    shards_before: int = 0


def import_arrays(
    campaign: Campaign, specs: Sequence[ArraySpec], make: Make, *, addition: int, progress: Progress
) -> ImportCounts:
    """Give every sealed chip of a campaign, whose lock the caller holds, the arrays that `make` returns for it.

    addition: number of the provenance of these arrays, the same whenever they are imported, and no other's.

    Raises InputError where the store declares one of the arrays otherwise.
    """
    layout = read_layout(campaign.store_path)
    _check_declared(layout, specs)
    wider = replace(layout, specs={**layout.specs, **{spec.name: spec for spec in specs}})
    counts = ImportCounts(statuses=Counter())
    with _anchors(campaign) as anchor_of:
        for shard in range(layout.shard_count):
            chips = _chips_of_shard(campaign, layout, shard)
            if not chips or _is_done(campaign, shard, specs):
                counts.shards_before += bool(chips)
                progress.advance(len(chips))
                continue
            importing = _Shard(campaign, wider, shard, specs, addition)
            for chip in chips:
                importing.add(chip, make, anchor_of)
                progress.advance(1)
            importing.seal()
            counts.statuses.update(importing.statuses)
            counts.chips += importing.chips
            counts.shards += 1
    with store_locked(campaign):
        create_store(
            campaign.store_path, specs, chip_m=layout.chip_m, shard_chips=layout.shard_chips, codec=layout.codec
        )
    return counts


class _Shard:
    """The new arrays of one shard."""

    def __init__(
        self, campaign: Campaign, layout: StoreLayout, shard: int, specs: Sequence[ArraySpec], addition: int
    ) -> None:
        self._campaign = campaign
        self._layout = layout
        self._shard = shard
        self._specs = specs
        self._addition = addition
        self._superseded = set(layout.superseded)
        self._chips: list[SealedChip] = []
        self._rows: list[ProvenanceRow] = []
        self.chips = 0
        self.statuses: Counter[tuple[str, str]] = Counter()

    def add(self, chip: SealedChip, make: Make, anchor_of: Callable[[str], datetime | None]) -> None:
        """Make the arrays of a chip; one that has another row since stays empty in this one."""
        if chip.row in self._superseded:
            self._chips.append(chip)
            return
        anchor = anchor_of(chip.chip_id)
        found = make(_place(chip), anchor)
        values = {name: item.values for name, item in found.items() if item.values is not None}
        self._chips.append(replace(chip, arrays=values))
        for spec in self._specs:
            row = _provenance(spec, chip.chip_id, found[spec.name], anchor)
            self.statuses[spec.name, row.status] += 1
            self._rows.append(row)
        self.chips += 1

    def seal(self) -> None:
        """Write the files, then the provenance, which makes the shard done."""
        names = [spec.name for spec in self._specs]
        # Without provenance they hold nothing that counts: leftovers, or fill that a later export wrote.
        for name in names:
            shard_path(self._campaign.store_path, self._layout, name, self._shard).unlink(missing_ok=True)
        sums = seal_shard(self._campaign.store_path, self._shard, self._chips, arrays=names, layout=self._layout)
        rows = [replace(row, checksum=sums[row.array][row.chip_id]) for row in self._rows]
        write_provenance(self._campaign.provenance_path, self._shard, rows, self._addition)


def _provenance(spec: ArraySpec, chip_id: str, found: ImportedArray, anchor: datetime | None) -> ProvenanceRow:
    fraction = 0.0 if found.values is None else valid_fraction(spec, found.values)
    planned = ArrayStatus.NO_SCENE if found.values is None else ArrayStatus.OK
    gap = None
    if found.time is not None and anchor is not None:
        gap = (found.time - anchor).total_seconds() / 86_400
    return ProvenanceRow(
        chip_id=chip_id,
        array=spec.name,
        scene_ids=found.sources,
        time=None if found.time is None else round(found.time.timestamp() * 1000),
        gap_days=gap,
        valid_fraction=fraction,
        cloud_fraction=None,
        checksum=None,
        status=str(final_status(spec, planned, None, fraction)),
        origin="import",
        license=found.license or spec.license,
    )


def _check_declared(layout: StoreLayout, specs: Sequence[ArraySpec]) -> None:
    known = layout.specs
    changed = [spec.name for spec in specs if spec.name in known and known[spec.name].digest() != spec.digest()]
    if changed:
        raise InputError(
            f"the store declares these arrays otherwise: {', '.join(changed)}",
            hint="Go on with the m3etl that made it, or start another campaign.",
        )


def _is_done(campaign: Campaign, shard: int, specs: Sequence[ArraySpec]) -> bool:
    recorded = set(read_provenance(campaign.provenance_path, [shard])["array"])
    return all(spec.name in recorded for spec in specs)


def _chips_of_shard(campaign: Campaign, layout: StoreLayout, shard: int) -> list[SealedChip]:
    """The chips of one shard in order of row, without arrays; none where it is not sealed."""
    columns = {
        name: read_column_chunk(layout, name, campaign.store_path / name / f"c.{shard}") for name in chip_columns
    }
    first = shard * layout.shard_chips
    return [
        SealedChip(
            row=first + position,
            chip_id=str(columns["chip_id"][position]),
            split=str(columns["split"][position]),
            epsg=int(columns["epsg"][position]),
            **{name: float(columns[name][position]) for name in ("lon", "lat", "xmin", "ymax")},
            arrays={},
        )
        for position in np.flatnonzero(columns["chip_id"] != "").tolist()
    ]


def _place(chip: SealedChip) -> ChipPlace:
    return ChipPlace(
        row=chip.row, chip_id=chip.chip_id, epsg=chip.epsg, xmin=chip.xmin, ymax=chip.ymax, lon=chip.lon, lat=chip.lat
    )


@contextlib.contextmanager
def _anchors(campaign: Campaign) -> Iterator[Callable[[str], datetime | None]]:
    """The time of a chip's anchor, from the ledger (of a part); None where no ledger knows the chip."""
    with contextlib.ExitStack() as stack:
        ledgers: list[Ledger] = [
            stack.enter_context(contextlib.closing(open_ledger(item.ledger_path, to_read=True)))
            for item in campaign.with_ledger
        ]

        def anchor_of(chip_id: str) -> datetime | None:
            for ledger in ledgers:
                scenes = ledger.scenes_of(chip_id)
                if scenes is not None and scenes.anchor_time:
                    return datetime.fromisoformat(scenes.anchor_time)
            return None

        yield anchor_of
