"""`export`: fixes scenes in batches, fetches every chip's pixels, seals shards as their chips become final; goes on
where it stopped.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from m3etl.campaign import Campaign, locked
from m3etl.errors import InputError
from m3etl.io.earthengine import Session
from m3etl.io.flow import FlowCounts
from m3etl.io.ledger import Chosen, Ledger, open_ledger
from m3etl.stages.budget import make_meter, over_budget, read_figures
from m3etl.stages.exportreport import Outcome, dry_run, summarise
from m3etl.stages.fetching import Lane, PixelLane, SealingThread, block_chips_of
from m3etl.stages.layout import Layout, fix_layout, with_catalogue
from m3etl.stages.parts import begin_part, check_part, join_parts
from m3etl.stages.planning import ScenePlanner
from m3etl.stages.scheduling import (
    choose,
    count_planned,
    form_open_lots,
    read_plan_into,
    settle_lot,
    waves,
    write_rows_to_plan,
)
from m3etl.stages.summary import Progress, Summary
from m3etl.stages.tile import Sealer


def run_export(
    campaign: Campaign,
    *,
    session: Session | None,
    region: str | None = None,
    modalities: Sequence[str] = (),
    s2: str | None = None,
    lane: str | None = None,
    bucket: str | None = None,
    part: tuple[int, int] | None = None,
    retry_failed: bool = False,
    only: str = "",
    dry_run: bool = False,
    budget_eecu_hours: float | None = None,
    progress: Progress,
    base_wait_s: float = 1.0,
) -> Summary:
    """Export the planned chips whose centre lies in `region` (all without one), with the arrays of `modalities`.

    The arrays are fixed by the first export, and `s2` (auto, l2a, l1c or both; as configured without one) with them.
    lane: pixels or batch, `bucket`: where batch exports go (gs://NAME/prefix); as configured without them.
    part: (i, n) to do the i-th of n parts, from 1, with a ledger of its own; the others may run elsewhere.
    `dry_run` sends nothing and needs no session. `retry_failed` takes chips up again that had failed for good, and
    `only` limits the run to those that failed as this kind or with this text in the reason. budget_eecu_hours: what all
    runs of the campaign may spend; the run ends cleanly when the upper bound of its cost reaches it. base_wait_s: first
    back-off after a failure. `failed` of the summary counts quarantined chips, `errors` their reasons; everything else
    is sealed.

    Raises NothingSelectedError where no planned chip lies in the region, InputError for arrays that were not part of
    the first export, BudgetError where the budget is used up (what landed is kept), RemoteError where the service
    refuses or does not answer, KeyboardInterrupt after Ctrl-C, when what was in flight has landed.
    """
    options = campaign.config.export
    options = replace(options, s2=s2 or options.s2, lane=lane or options.lane, bucket=bucket or options.bucket)
    campaign = replace(campaign.with_config(export=options), part=part)
    chosen = choose(campaign, region, only)
    if dry_run:
        return _dry_run(campaign, chosen, modalities)
    if session is None:
        raise InputError("an export needs a connection to Earth Engine", hint="Name one with --ee-url, or log in.")
    with locked(campaign):
        check_part(campaign)
        if part is None:
            join_parts(campaign, progress)
        ledger = open_ledger(campaign.ledger_path)
        try:
            ledger.chosen = chosen
            export = _Export(campaign, session, ledger, progress, base_wait_s, budget_eecu_hours)
            return export.run(modalities, region, retry_failed=retry_failed or bool(only))
        finally:
            ledger.close()


class _Export:
    """One run: planning, pixels, sealing. The coordinating thread is the caller's."""

    def __init__(
        self,
        campaign: Campaign,
        session: Session,
        ledger: Ledger,
        progress: Progress,
        base_wait_s: float,
        budget_eecu_hours: float | None,
    ) -> None:
        self._campaign = campaign
        self._session = session
        self._ledger = ledger
        self._progress = progress
        self._base_wait_s = base_wait_s
        self._planning = FlowCounts()
        self._pixels = FlowCounts()
        self._stop = threading.Event()
        self._budget_eecu_hours = budget_eecu_hours
        self._meter = make_meter(campaign, session, ledger, budget_eecu_hours=budget_eecu_hours, on_over=self._stop.set)
        self._started = time.monotonic()
        self._landed = 0
        self._bytes = 0

    def run(self, modalities: Sequence[str], region: str | None, *, retry_failed: bool) -> Summary:
        layout = fix_layout(self._campaign, self._ledger, modalities, lambda: count_planned(self._campaign))
        self._campaign = with_catalogue(self._campaign, layout)
        whole = self._campaign.part is None
        if whole:
            read_plan_into(self._ledger, self._campaign, self._progress)
        else:
            begin_part(self._campaign, self._ledger, layout, region, self._progress)
        self._seal_ready(layout)
        if retry_failed:
            self._reopen_failed(layout)
        if whole:
            form_open_lots(self._ledger, self._campaign, layout)
        with _draining(self._stop, self._progress):
            try:
                self._work(layout)
            finally:
                self._record_run()
                if whole:
                    write_rows_to_plan(self._campaign, [self._ledger])
        if self._budget_eecu_hours is not None and self._meter.over:
            outcome = f"{self._landed} chips landed in this run"
            raise over_budget(read_figures(self._campaign, self._ledger), self._budget_eecu_hours, outcome)
        if self._stop.is_set():
            raise KeyboardInterrupt
        return self._summary()

    def _seal_ready(self, layout: Layout) -> None:
        # What a killed run left half sealed must not change any more, as a failed chip taken up again would make it.
        sealer = Sealer(self._campaign, self._ledger, layout)
        for shard in self._ledger.ready_shards():
            sealer.seal(shard)

    def _reopen_failed(self, layout: Layout) -> None:
        count, left = self._ledger.reopen_failed(
            shard_chips=layout.shard_chips, leave_sealed=self._campaign.part is not None
        )
        self._progress.say(f"{count} failed chips are tried again")
        if left:
            self._progress.say(
                f"{left} failed chips lie in sealed shards: when all parts are done, try them with "
                "`m3etl export --retry-failed` without --part"
            )

    def _work(self, layout: Layout) -> None:
        """Wave by wave, scenes are fixed and pixels fetched, first with what an earlier run left open."""
        planner = self._planner(layout)
        for number, wave in enumerate(waves(self._ledger)):
            if number:
                self._session.use_standard()
            for lot in wave:
                if not self._stop.is_set():
                    settle_lot(self._ledger, lot, planner, layout, self._stop, self._progress)
            if self._campaign.config.export.lane != "batch":  # region tiles are cut when all their chips are known
                self._fetch(layout)
        self._fetch(layout)

    def _planner(self, layout: Layout) -> ScenePlanner:
        config = self._campaign.config
        return ScenePlanner(
            session=self._session,
            ledger=self._ledger,
            specs=tuple(layout.specs.values()),
            config=config.export,
            seed=config.sample.seed,
            years=config.sample.years,
            must_have_scene=config.sample.strategy == "biome",
            counts=self._planning,
            meter=self._meter,
            stop=self._stop,
            on_planned=lambda count: self._progress.advance(count, requests=self._planning.requests),
            base_wait_s=self._base_wait_s,
            journal=self._campaign.raw_path / "planning.jsonl",
            block_chips=block_chips_of(self._campaign, tuple(layout.specs.values())),
        )

    def _fetch(self, layout: Layout) -> None:
        if self._stop.is_set():
            return
        self._ledger.landing_segment = -1
        sealing = SealingThread(Sealer(self._campaign, self._ledger, layout))
        todo = self._ledger.open_count()
        try:
            sealing.put(self._ledger.ready_shards())
            if todo or self._campaign.config.export.lane == "batch":  # tasks may be left to tidy up
                with self._open_lane(layout, sealing.put) as lane:
                    self._progress.start("pixels", todo)
                    try:
                        lane.run()
                    finally:
                        self._landed += lane.landed
                        self._bytes += lane.nbytes
                    self._progress.finish()
        finally:
            sealing.close()

    def _open_lane(
        self, layout: Layout, hand_over: Callable[[Sequence[int]], None]
    ) -> contextlib.AbstractContextManager[Lane]:
        shared: dict[str, Any] = {
            "campaign": self._campaign,
            "session": self._session,
            "ledger": self._ledger,
            "layout": layout,
            "hand_over": hand_over,
            "counts": self._pixels,
            "progress": self._progress,
            "stop": self._stop,
            "base_wait_s": self._base_wait_s,
            "meter": self._meter,
        }
        if self._campaign.config.export.lane == "batch":
            from m3etl.stages.batch import open_batch_lane

            return open_batch_lane(**shared)
        self._session.use_high_volume()
        return contextlib.closing(PixelLane(**shared))

    def _record_run(self) -> None:
        self._meter.close()
        if self._session.restricted:
            self._progress.say(
                "Earth Engine is in restricted mode: the project's EECU-hours of this month are used up, and requests "
                "are worked on with less force until the next month begins"
            )
        seconds = time.monotonic() - self._started
        self._ledger.add_totals(
            {
                "planning_requests": self._planning.requests,
                "pixel_requests": self._pixels.requests,
                "profile_requests": self._meter.requests,
                "retries": self._planning.retries + self._pixels.retries,
                "bytes": self._bytes,
                "seconds": seconds,
            }
        )
        if self._landed:
            self._ledger.write_meta("last_run", {"chips": self._landed, "seconds": round(seconds, 3)})

    def _summary(self) -> Summary:
        outcome = Outcome(
            planning=self._planning,
            pixels=self._pixels,
            landed=self._landed,
            nbytes=self._bytes,
            seconds=time.monotonic() - self._started,
            profiles=self._meter.requests,
            restricted=self._session.restricted,
        )
        return summarise(self._campaign, self._ledger, outcome, self._progress)


@contextlib.contextmanager
def _draining(stop: threading.Event, progress: Progress) -> Iterator[None]:
    """Ctrl-C sets `stop` instead of breaking in anywhere; a second Ctrl-C breaks in. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        progress.say("stopping: what is in flight still lands (Ctrl-C again to break off)")

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _dry_run(campaign: Campaign, chosen: Chosen, modalities: Sequence[str]) -> Summary:
    chips = count_planned(campaign, chosen)
    if not campaign.ledger_path.exists():
        return dry_run(campaign, None, chips, modalities)
    ledger = open_ledger(campaign.ledger_path, to_read=True)
    try:
        ledger.chosen = chosen
        return dry_run(campaign, ledger, chips, modalities)
    finally:
        ledger.close()
