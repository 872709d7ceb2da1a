"""The pixel lane of `export` at work: jobs from the ledger, requests through the flow, whole chips into segments and
ledger, shards sealed beside it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from m3etl.campaign import Campaign
from m3etl.io.answers import read_answer
from m3etl.io.bodies import RequestBodies
from m3etl.io.earthengine import Session
from m3etl.io.flow import Flow, FlowCounts, FlowStopped, Pace
from m3etl.io.ledger import LandedChip, Ledger
from m3etl.io.metering import Metering, Unmetered
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.pixels import Chips, PixelJob, PixelRequest, WholeChip
from m3etl.io.segments import SegmentWriter
from m3etl.spec.budget import pixel_lane
from m3etl.spec.modality import Shape
from m3etl.stages.places import grid_of
from m3etl.stages.planning import stopped_error
from m3etl.stages.summary import Progress
from m3etl.stages.tile import Layout, Sealer


class Lane(Protocol):
    """Brings every open chip. landed, nbytes: chips and bytes of this run so far."""

    @property
    def landed(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def run(self) -> None: ...


class PixelLane:
    """Requests of all open chips through one flow; answers go to segments, then to the ledger, then to the sealer.

    hand_over: takes the shards that became final. landed, nbytes: chips and bytes of this run so far.
    """

    def __init__(
        self,
        *,
        campaign: Campaign,
        session: Session,
        ledger: Ledger,
        layout: Layout,
        hand_over: Callable[[Sequence[int]], None],
        counts: FlowCounts,
        progress: Progress,
        stop: threading.Event,
        base_wait_s: float = 1.0,
        meter: Metering | None = None,
    ) -> None:
        self._campaign = campaign
        self._base_wait_s = base_wait_s
        self._session = session
        self._ledger = ledger
        self._layout = layout
        self._hand_over = hand_over
        self._counts = counts
        self._progress = progress
        self._stop = stop
        self._meter = meter or Unmetered()
        self._writer = SegmentWriter(campaign.raw_path)
        self._chips = Chips(fail=self._fail)
        self._bodies = RequestBodies()
        self._rasters = [name for name, spec in layout.specs.items() if spec.shape is Shape.RASTER]
        self.landed = 0
        self.nbytes = 0

    def run(self) -> None:
        """Fetch every open chip. Raises RemoteError when the run can't go on; returns early when `stop` is set."""
        config = self._campaign.config.export
        pace = Pace(
            requests_per_second=config.requests_per_second,
            max_in_flight=config.max_in_flight,
            max_attempts=config.max_attempts,
            base_wait_s=self._base_wait_s,
        )
        flow: Flow[PixelRequest] = Flow(
            send=self._send,
            land=self._land,
            split=self._chips.split,
            give_up=self._chips.give_up,
            pace=pace,
            counts=self._counts,
            stop=self._stop,
            on_tick=self._tick,
        )
        try:
            flow.run(self._chips.start(self._jobs(config.check_every)))
        except FlowStopped as stopped:
            raise stopped_error(stopped) from stopped
        self._land_whole(self._chips.arrived([]))

    def close(self) -> None:
        self._writer.close()

    def _jobs(self, check_every: int) -> Iterator[PixelJob]:
        after, position = -1, 0
        while True:
            records = self._ledger.open_rows(after)
            if not records:
                return
            for record in records:
                yield PixelJob(
                    chip=grid_of(record.chip_id),
                    specs=self._layout.specs,
                    scenes=record.scenes.arrays,
                    check=check_every > 0 and position % check_every == 0,
                )
                position += 1
            after = records[-1].row

    def _send(self, request: PixelRequest) -> tuple[bytes, dict[str, float]]:
        sent = self._bodies.body(request)
        with self._meter.request(pixel_lane, request.nbytes):
            body = self._session.compute_pixels(sent)
        return body, read_answer(request, body)

    def _land(self, answers: Sequence[tuple[PixelRequest, Any]]) -> None:
        self.nbytes += sum(len(body) for _, (body, _) in answers)
        self._land_whole(self._chips.arrived(answers))

    def _land_whole(self, whole: Sequence[WholeChip]) -> None:
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
        self.landed += len(landed)
        self._progress.advance(len(landed), **self._fields())

    def _fail(self, chip_id: str, failure: Failure) -> None:
        ready = self._ledger.record_failed(
            chip_id, str(failure.kind), failure.message, shard_chips=self._layout.shard_chips
        )
        self._hand_over(ready)
        self._progress.advance(1, **self._fields())

    def _tick(self, in_flight: int, counts: FlowCounts) -> None:
        self._progress.advance(0, in_flight=in_flight, **self._fields())

    def _fields(self) -> dict[str, Any]:
        counts = self._counts
        return {
            "retries": counts.retries,
            "refused": counts.outcomes[Kind.RATE],
            "MB": round(self.nbytes / 1e6, 1),
            **({"mode": "restricted"} if self._session.restricted else {}),
        }


class SealingThread:
    """Seals shards beside the fetching; `close` waits until all that were handed over are sealed and raises what went
    wrong.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._seen: set[int] = set()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="m3etl-seal", daemon=True)
        self._thread.start()

    def put(self, shards: Sequence[int]) -> None:
        for shard in shards:
            if shard not in self._seen:
                self._seen.add(shard)
                self._queue.put(shard)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._sealer.finish()

    def _work(self) -> None:
        while True:
            shard = self._queue.get()
            if shard is None:
                return
            if self._error is not None:
                continue
            try:
                self._sealer.seal(shard)
            except BaseException as error:
                self._error = error
