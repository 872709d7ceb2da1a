"""The pixel lane of `export` at work: jobs from the ledger and from planning, requests through the flow, whole chips
into segments and ledger, shards sealed beside it.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from m3etl.campaign import Campaign
from m3etl.errors import InputError
from m3etl.io.answers import Piece, take_answer
from m3etl.io.assembly import Chips
from m3etl.io.blocks import block_sides, largest_block
from m3etl.io.bodies import RequestBodies
from m3etl.io.earthengine import Session
from m3etl.io.flow import Flow, FlowCounts, FlowStopped, Pace, Quota
from m3etl.io.ledger import Ledger
from m3etl.io.metering import Metering, Unmetered
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.pixels import PixelJob, PixelRequest, WholeChip, check_bytes
from m3etl.spec.budget import pixel_lane
from m3etl.spec.jobs import ChipScenes
from m3etl.spec.modality import ArraySpec
from m3etl.stages.feeding import Feed
from m3etl.stages.landing import Landing
from m3etl.stages.places import grid_of
from m3etl.stages.planning import stopped_error
from m3etl.stages.summary import Progress
from m3etl.stages.tile import Layout, Sealer

told_pause_s = 10.0  # shorter ones are over before anybody wonders


class Lane(Protocol):
    """Brings every open chip. landed, nbytes: chips and bytes of this run so far."""

    @property
    def landed(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def run(self) -> None: ...


class PixelLane:
    """Requests of all open chips through one flow; answers go to segments, then to the ledger, then to the sealer.

    feed: chips that are decided while others are fetched. hand_over: takes the shards that became final. landed,
    nbytes: chips and bytes of this run so far.
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
        feed: Feed | None = None,
        quota: Quota | None = None,
    ) -> None:
        self._campaign = campaign
        self._session = session
        self._feed = feed
        self._quota = quota
        self._row_end = 0 if campaign.addition else ledger.row_end()  # its chips have rows before they are decided
        self._ledger = ledger
        self._layout = layout
        self._counts = counts
        self._progress = progress
        self._stop = stop
        self._meter = meter or Unmetered()
        config = campaign.config.export
        self._landing = Landing(campaign.raw_path, ledger, layout, hand_over)
        self._chips = Chips(fail=self._fail, block_chips=block_chips_of(campaign, tuple(layout.specs.values())))
        self._bodies = RequestBodies()
        self._pace = Pace(
            requests_per_second=config.requests_per_second,
            max_in_flight=config.max_in_flight,
            max_attempts=config.max_attempts,
            base_wait_s=base_wait_s,
            max_bytes=config.max_in_flight_mb * 2**20,
            start_in_flight=config.max_in_flight // 2,
        )

    @property
    def landed(self) -> int:
        """Chips of this run so far."""
        return self._landing.landed

    @property
    def nbytes(self) -> int:
        """Bytes of this run so far."""
        return self._landing.nbytes

    def run(self) -> None:
        """Fetch every open chip. Raises RemoteError when the run can't go on; returns early when `stop` is set."""
        flow: Flow[PixelRequest] = Flow(
            send=self._send,
            land=self._land,
            split=self._chips.split,
            give_up=self._chips.give_up,
            pace=self._pace,
            counts=self._counts,
            stop=self._stop,
            on_tick=self._tick,
            is_serving=self._session.serves_pixels,
            quota=self._quota,
        )
        try:
            flow.run(self._chips.start(self._jobs()))
        except FlowStopped as stopped:
            raise stopped_error(stopped) from stopped
        self._land_whole(self._chips.arrived([]))

    def close(self) -> None:
        self._landing.close()

    def _jobs(self) -> Iterator[PixelJob | None]:
        check_every = self._campaign.config.export.check_every
        position = 0
        for scenes in itertools.chain(self._left_open(), self._feed or ()):
            if scenes is None:
                yield None
                continue
            yield PixelJob(
                chip=grid_of(scenes.chip_id),
                specs=self._layout.specs,
                scenes=scenes.arrays,
                check=check_every > 0 and position % check_every == 0,
            )
            position += 1

    def _left_open(self) -> Iterator[ChipScenes]:
        """What an earlier run has left open; chips that get their row in this one come by the feed."""
        after = -1
        while records := self._ledger.open_rows(after, until=self._row_end):
            yield from (record.scenes for record in records)
            after = records[-1].row

    def _send(self, request: PixelRequest) -> tuple[Piece, ...]:
        sent = self._bodies.body(request)
        with self._meter.request(pixel_lane, request.counted_bytes):
            body = self._session.compute_pixels(sent)
        return take_answer(request, body)

    def _land(self, answers: Sequence[tuple[PixelRequest, Any]]) -> None:
        self._land_whole(self._chips.arrived(pieces for _, pieces in answers))

    def _land_whole(self, whole: Sequence[WholeChip]) -> None:
        self._landing.land(whole)
        self._progress.advance(len(whole), **self._fields())

    def _fail(self, chip_id: str, failure: Failure) -> None:
        self._landing.fail(chip_id, str(failure.kind), failure.message)
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


def block_chips_of(campaign: Campaign, specs: Sequence[ArraySpec]) -> int:
    """Chips a side of the blocks that are planned with one anchor and fetched in one request; 1 but for wall-to-wall
    plans.
    """
    config = campaign.config
    if config.sample.strategy != "grid":
        return 1
    wanted = config.export.block_chips
    if wanted and wanted not in block_sides:
        raise InputError(
            f"export.block_chips is {wanted}", hint="Use 1, 2, 4 or 8, or 0 for as many as a request holds."
        )
    most_bytes = config.export.max_in_flight_mb * 2**20 // 4
    largest = largest_block(specs, config.sample.chip_px, extra_bytes=check_bytes, most_bytes=most_bytes)
    return min(wanted or largest, largest)


class Pauses:
    """Says that nothing moves and why where the service asks for a long pause: once, however many requests in flight
    are told of it. For any thread.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._until = -math.inf
        self._lock = threading.Lock()

    def note(self, pause_s: float, failure: Failure) -> None:
        """Nothing is sent for so many seconds, because of this outcome."""
        if pause_s < told_pause_s:
            return
        now = self._clock()
        with self._lock:
            is_new, self._until = now >= self._until, max(self._until, now + pause_s)
        if is_new:
            self._progress.say(f"waiting for {pause_s:.0f} s (Ctrl-C loses nothing): {failure.message}")


class SealingThread:
    """Seals shards beside the fetching; `close` waits until all that were handed over are sealed and raises what went
    wrong.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._seen: set[int] = set()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="m3etl-seal", daemon=True)
        self._thread.start()

    def put(self, shards: Sequence[int]) -> None:
        """Shards that are final; each is sealed once however often it is named. For any thread."""
        with self._lock:
            fresh = [shard for shard in shards if shard not in self._seen]
            self._seen.update(fresh)
        for shard in fresh:
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
