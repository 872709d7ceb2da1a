"""Where every lane of `export` puts its chips: bytes into segments, outcomes into the ledger, full shards to the
sealer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from m3etl.io.ledger import LandedChip, Ledger
from m3etl.io.pixels import WholeChip
from m3etl.io.segments import SegmentWriter
from m3etl.spec.modality import Shape
from m3etl.stages.tile import Layout


class Landing:
    """Makes whole chips durable, then known. hand_over: takes the shards that became final.

    landed, nbytes: chips and bytes so far.
    """

    def __init__(
        self, raw_path: Path, ledger: Ledger, layout: Layout, hand_over: Callable[[Sequence[int]], None]
    ) -> None:
        self._writer = SegmentWriter(raw_path)
        self._ledger = ledger
        self._layout = layout
        self._hand_over = hand_over
        self._rasters = [name for name, spec in layout.specs.items() if spec.shape is Shape.RASTER]
        self.landed = 0
        self.nbytes = 0

    def land(self, whole: Sequence[WholeChip]) -> None:
        """Store the chips' bytes, flush, and record them as landed."""
        if not whole:
            return
        landed = [
            LandedChip(
                chip_id=chip.chip_id,
                place=self._writer.append(chip.chip_id, chip.parts) if chip.parts else None,
                statuses=chip.statuses,
                valid={**dict.fromkeys(self._rasters, 0.0), **chip.valid},
            )
            for chip in whole
        ]
        self._writer.flush()
        self._hand_over(self._ledger.record_landed(landed, shard_chips=self._layout.shard_chips))
        self.landed += len(whole)
        self.nbytes += sum(len(part.body) for chip in whole for part in chip.parts)

    def fail(self, chip_id: str, kind: str, reason: str) -> None:
        """Quarantine a chip with its reason."""
        self._hand_over(self._ledger.record_failed(chip_id, kind, reason, shard_chips=self._layout.shard_chips))

    def close(self) -> None:
        """End the segment that is being written."""
        self._writer.close()
