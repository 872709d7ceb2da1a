"""The batch lane of `export`: region tiles become export tasks, their files in a bucket become chips.

Three things go on at once: tasks are asked for as far as the service runs them, those that it has are looked at, and
one finished tile after the other is read, cut and landed in a thread. Everything is in the ledger before it is done,
so a run that was killed goes on without asking for anything twice.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from m3etl import __version__
from m3etl.campaign import Campaign
from m3etl.errors import DamagedError, InputError, RemoteError
from m3etl.io.earthengine import Session
from m3etl.io.exports import Exports, ExportService, folder_of
from m3etl.io.flow import FlowCounts
from m3etl.io.ledger import ChipRecord, Ledger
from m3etl.io.metering import Metering, Unmetered
from m3etl.io.objects import Bucket, BucketPlace, embedded_bucket, open_bucket, parse_bucket
from m3etl.io.outcomes import Kind
from m3etl.io.pixels import PixelJob, WholeChip
from m3etl.io.tasks import TaskRecord, Tasks, open_tasks
from m3etl.spec.exporttasks import TaskChip, cells_a_side, plan_tasks, tile_of
from m3etl.spec.modality import Shape
from m3etl.stages.landing import Landing
from m3etl.stages.places import grid_of
from m3etl.stages.summary import Progress
from m3etl.stages.taskrunning import TaskRunner, longest_pause_s
from m3etl.stages.tile import Layout
from m3etl.stages.tilereading import TileReading

landed_together = 64  # chips


class BatchLane:
    """Exports of all open chips through tasks. hand_over: takes the shards that became final.

    landed, nbytes: chips and bytes of this run so far. base_wait_s: first pause between two looks at the tasks.
    """

    def __init__(
        self,
        *,
        campaign: Campaign,
        ledger: Ledger,
        tasks: Tasks,
        layout: Layout,
        service: ExportService,
        bucket: Bucket,
        hand_over: Callable[[Sequence[int]], None],
        counts: FlowCounts,
        progress: Progress,
        stop: threading.Event,
        base_wait_s: float = 1.0,
        meter: Metering | None = None,
    ) -> None:
        self._campaign = campaign
        self._ledger = ledger
        self._tasks = tasks
        self._layout = layout
        self._service = service
        self._bucket = bucket
        self._counts = counts
        self._progress = progress
        self._stop = stop
        self._base_wait_s = base_wait_s
        self._landing = Landing(campaign.raw_path, ledger, layout, hand_over)
        self._rasters = {name: spec for name, spec in layout.specs.items() if spec.shape is Shape.RASTER}
        self._cells = cells_a_side(
            self._rasters.values(),
            chip_px=campaign.config.sample.chip_px,
            tile_px=campaign.config.export.batch_tile_px,
        )
        self._salt = f"{tasks.salt()} {bucket.place.url}"
        self._runner = TaskRunner(
            tasks=tasks,
            service=service,
            fail=self._quarantine,
            place=bucket.place.url,
            salt=self._salt,
            in_flight=campaign.config.export.batch_in_flight,
            deadline_h=campaign.config.export.batch_deadline_h,
            base_wait_s=base_wait_s,
            counts=counts,
            meter=meter or Unmetered(),
            progress=progress,
            stop=stop,
        )

    @property
    def landed(self) -> int:
        """Chips of this run so far."""
        return self._landing.landed

    @property
    def nbytes(self) -> int:
        """Bytes of these chips."""
        return self._landing.nbytes

    def run(self) -> None:
        """Export every open chip. Raises RemoteError when the run can't go on, InputError for an unusable bucket;
        returns early when `stop` is set, tasks at Earth Engine then go on.
        """
        left = -1
        while ((found := self._plan_open()) or self._tasks.unread()) and not self._stop.is_set():
            if found == left:
                raise DamagedError(f"{left} chips stay open although every task is done", hint="Please report this.")
            if left < 0:
                self._check_bucket()
            left = found
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="m3etl-tile") as pool:
                self._work(pool)

    def close(self) -> None:
        """End the segment that is being written."""
        self._landing.close()

    def _check_bucket(self) -> None:
        about = {"written by": f"m3etl {__version__}", "what": "batch exports on their way into a data set"}
        self._bucket.write("m3etl.json", json.dumps(about).encode())

    # --- planning -----------------------------------------------------------------------------------------------------

    def _plan_open(self) -> int:
        """Make sure that every open chip has tasks for all its arrays; returns how many chips are open."""
        self._tasks.gather(self._sorted_chips())
        for tile in self._tasks.gathered_tiles():
            self._plan_tile(tile)
        return self._ledger.open_count()

    def _sorted_chips(self) -> Iterator[list[tuple[str, str]]]:
        """(tile, chip id) of open chips in batches. Chips that need no pixels land at once."""
        after = -1
        while records := self._ledger.open_rows(after):
            after = records[-1].row
            chips = [self._task_chip(record) for record in records]
            idle = [chip.chip_id for chip in chips if not chip.scenes]
            self._landing.land([WholeChip(chip_id=chip_id, parts=(), valid={}, statuses={}) for chip_id in idle])
            yield [(self._tile(chip), chip.chip_id) for chip in chips if chip.scenes]

    def _plan_tile(self, tile: str) -> None:
        coming = self._tasks.coming(tile)
        missing = []
        for chip_id in self._tasks.gathered_chips(tile):
            record = self._ledger.open_chip(chip_id)
            chip = self._task_chip(record, coming.get(chip_id, frozenset())) if record else None
            if chip is not None and chip.scenes:
                missing.append(chip)
        self._tasks.add(plan_tasks(tile, missing, self._rasters, chip_m=self._campaign.chip_m), salt=self._salt)

    def _task_chip(self, record: ChipRecord, less: frozenset[str] = frozenset()) -> TaskChip:
        wanted = self._job(record).wanted()
        grid = grid_of(record.chip_id)
        scenes = {name: record.scenes.arrays[name].request_ids for name in wanted if name not in less}
        return TaskChip(chip_id=record.chip_id, epsg=grid.epsg, xmin=grid.xmin, ymax=grid.ymax, scenes=scenes)

    def _job(self, record: ChipRecord) -> PixelJob:
        return PixelJob(
            chip=grid_of(record.chip_id), specs=self._layout.specs, scenes=record.scenes.arrays, check=False
        )

    def _tile(self, chip: TaskChip) -> str:
        return tile_of(chip, chip_m=self._campaign.chip_m, cells=self._cells)

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _work(self, pool: ThreadPoolExecutor) -> None:
        """Until no task is open and every finished tile is read, or `stop` is set."""
        pause_s, reading = self._base_wait_s, None
        while not self._stop.is_set():
            changed = self._runner.step()
            reading, finished = self._read_next(pool, reading)
            changed += finished
            open_tasks = sum(self._tasks.counts().get(state, 0) for state in ("planned", "submitting", "running"))
            if not open_tasks and reading is None:
                return
            self._progress.advance(0, tasks=open_tasks, **self._fields())
            pause_s = self._base_wait_s if changed else min(longest_pause_s, 1.5 * pause_s)
            self._wait(pause_s, reading)
        if reading is not None:
            reading.result()

    def _wait(self, pause_s: float, reading: Future[None] | None) -> None:
        end = time.monotonic() + pause_s
        while (left := end - time.monotonic()) > 0 and not (reading is not None and reading.done()):
            if self._stop.wait(min(left, 0.05 if reading is not None else left)):
                return

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_next(self, pool: ThreadPoolExecutor, reading: Future[None] | None) -> tuple[Future[None] | None, int]:
        """Start to read the next finished tile when none is being read; returns the reading and how many ended."""
        ended = 0
        if reading is not None:
            if not reading.done():
                return reading, 0
            reading.result()
            ended = 1
        tiles = self._tasks.complete_tiles()
        return (pool.submit(self._read_tile, tiles[0]) if tiles else None), ended

    def _read_tile(self, tile: str) -> None:
        """Cut a tile into chips and land them. Tasks whose files are wrong are tried again, or their chips fail."""
        records = [record for record in self._tasks.of_tile(tile) if self._open_chips([record])]
        chips = self._open_chips(records)
        with contextlib.ExitStack() as stack:
            reading = TileReading(records, chips, self._bucket, self._layout.specs)
            stack.callback(reading.close)
            for start in range(0, len(chips), landed_together):
                if self._stop.is_set():
                    return
                jobs = [self._open_job(chip_id) for chip_id in chips[start : start + landed_together]]
                whole = [chip for job in jobs if (chip := reading.assemble(job)) is not None]
                self._landing.land(whole)
                self._progress.advance(len(whole), **self._fields())
        again = [record for record in records if self._handle_wrong(record, reading.wrong.get(record.job, {}))]
        if again:
            return
        if not self._campaign.config.store.keep_raw:
            self._clean(self._tasks.of_tile(tile))
        self._tasks.read(tile)

    def _open_job(self, chip_id: str) -> PixelJob:
        record = self._ledger.open_chip(chip_id)
        if record is None:
            raise DamagedError(f"chip {chip_id} is not open any more", hint="Is another process at work here?")
        return self._job(record)

    def _open_chips(self, records: Sequence[TaskRecord]) -> list[str]:
        """Chips of tasks that are still open, from north to south and from west to east."""
        places: dict[str, tuple[float, float]] = {}
        for record in records:
            for chip_id in record.task.chip_ids - places.keys():
                if self._ledger.open_chip(chip_id) is not None:
                    grid = grid_of(chip_id)
                    places[chip_id] = (-grid.ymax, grid.xmin)
        return sorted(places, key=lambda chip_id: places[chip_id])

    def _handle_wrong(self, record: TaskRecord, wrong: Mapping[str, str]) -> bool:
        """Try a task again in which something was wrong, or quarantine its wrong chips; returns whether it is tried."""
        if not wrong:
            return False
        if self._runner.try_again(record, next(iter(wrong.values()))):
            return True
        for chip_id, reason in wrong.items():
            self._quarantine(chip_id, Kind.WRONG, reason)
        return False

    def _quarantine(self, chip_id: str, kind: str, reason: str) -> None:
        if self._ledger.open_chip(chip_id) is not None:
            self._landing.fail(chip_id, kind, reason)
            self._progress.advance(1, **self._fields())

    def _clean(self, records: Sequence[TaskRecord]) -> None:
        """Delete what the tasks left in the bucket; that it can't be deleted is said and no more."""
        try:
            for record in records:
                for attempt in range(1, record.attempt + 1):
                    folder = folder_of(record.job, attempt)
                    self._bucket.delete([item.name for item in self._bucket.objects(folder)])
        except (InputError, RemoteError) as error:
            self._progress.say(f"exported files stay in the bucket: {error.message}")

    def _fields(self) -> dict[str, object]:
        return {"retries": self._counts.retries, "MB": round(self.nbytes / 1e6, 1)}


@contextlib.contextmanager
def open_batch_lane(*, campaign: Campaign, session: Session, layout: Layout, **shared: Any) -> Generator[BatchLane]:
    """The lane of a campaign, closed at the end of the block; `shared` is passed on.

    Raises InputError where no bucket is named, or another one than that to which tasks are on their way.
    """
    place = _place_of(campaign, session)
    with contextlib.closing(open_tasks(campaign.ledger_path)) as tasks:
        tasks.keep_place(place.url)
        service, bucket = connect(session, place, layout)
        lane = BatchLane(campaign=campaign, tasks=tasks, layout=layout, service=service, bucket=bucket, **shared)
        with contextlib.closing(lane):
            yield lane


def connect(session: Session, place: BucketPlace, layout: Layout) -> tuple[ExportService, Bucket]:
    """The service that runs the tasks, and the bucket that they go to."""
    return Exports(session, place, layout.specs), open_bucket(place, session)


def _place_of(campaign: Campaign, session: Session) -> BucketPlace:
    named = campaign.config.export.bucket
    if named:
        return parse_bucket(named)
    if session.local:
        return BucketPlace(name=embedded_bucket)
    raise InputError(
        "the batch lane needs a bucket in Cloud Storage",
        hint="Name one with --bucket gs://NAME/prefix; make it with `gcloud storage buckets create gs://NAME "
        "--location=US`.",
    )
