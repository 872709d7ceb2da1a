"""`export`: fixes scenes in batches, fetches every chip's pixels, seals shards as their chips become final; goes on
where it stopped.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from m3etl.campaign import Campaign, locked
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.earthengine import Session
from m3etl.io.flow import FlowCounts, Quota
from m3etl.io.garbage import rare_searches
from m3etl.io.journal import journal_name
from m3etl.io.ledger import ChipState, Chosen, Ledger, open_ledger
from m3etl.io.lots import open_lots
from m3etl.stages.additions import (
    RowsOfBase,
    begin_addition,
    begun_addition,
    check_addable,
    finish_addition,
    open_addition,
)
from m3etl.stages.asking import MeteredSession, PlanningRules
from m3etl.stages.budget import make_meter, over_budget, read_figures, share_of_part
from m3etl.stages.exportreport import Outcome, dry_run, summarise
from m3etl.stages.feeding import Feed, Planning
from m3etl.stages.fetching import Lane, Pauses, PixelLane, SealingThread, block_chips_of
from m3etl.stages.layout import Layout, fix_layout, further_specs, read_layout_of, with_catalogue
from m3etl.stages.ledgers import describe_addition
from m3etl.stages.parts import begin_part, check_part, join_parts
from m3etl.stages.planningprocess import Planner, PlanningProcess
from m3etl.stages.scheduling import (
    OpenLots,
    choose,
    count_planned,
    form_open_lots,
    read_plan_into,
    write_rows_to_plan,
)
from m3etl.stages.sealingprocess import SealingProcess
from m3etl.stages.shardwork import Performs, seal_work
from m3etl.stages.summary import Progress, Summary
from m3etl.stages.tile import Sealer

_Plan = Callable[[Callable[[Sequence[int]], None], Feed | None], None]  # of where final shards and decided chips go


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
    planners: PlanningProcess | None = None,
) -> Summary:
    """Export the planned chips whose centre lies in `region` (all without one), with the arrays of `modalities`.

    The arrays are fixed by the first export, and `s2` (auto, l2a, l1c or both; as configured without one) with them.
    lane: pixels or batch, `bucket`: where batch exports go (gs://NAME/prefix); as configured without them.
    part: (i, n) to do the i-th of n parts, from 1, with a ledger of its own; the others may run elsewhere.
    `dry_run` sends nothing and needs no session. `retry_failed` takes chips up again that had failed for good, and
    `only` limits the run to those that failed as this kind or with this text in the reason. budget_eecu_hours: what all
    runs of the campaign may spend; the run ends cleanly when the upper bound of its cost reaches it. base_wait_s: first
    back-off after a failure; planners: what plans many chips, where that has begun to load already.

    `failed` of the summary counts quarantined chips, `errors` their reasons; everything else is sealed.

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
            with contextlib.closing(planners or PlanningProcess()) as process:
                export = _Export(campaign, session, ledger, progress, base_wait_s, budget_eecu_hours, process)
                return export.run(modalities, region, retry_failed=retry_failed or bool(only))
        finally:
            ledger.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What is worked on: the campaign's own chips, or the arrays that are added to their rows."""

    campaign: Campaign
    ledger: Ledger
    layout: Layout

    def sealer(self, perform: Performs = seal_work) -> Sealer:
        return Sealer(self.campaign, self.ledger, self.layout, perform)

    def seal_ready(self) -> None:
        """Seal what a killed run left."""
        sealer = self.sealer()
        for shard in self.ledger.ready_shards():
            sealer.seal(shard)


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
        planners: PlanningProcess,
    ) -> None:
        self._campaign = campaign
        self._session = session
        self._ledger = ledger
        self._progress = progress
        self._base_wait_s = base_wait_s
        self._planning = FlowCounts()
        self._pixels = FlowCounts()
        self._stop = threading.Event()
        self._budget_eecu_hours = budget_eecu_hours = share_of_part(campaign, budget_eecu_hours)
        if campaign.part is not None and budget_eecu_hours is not None:
            progress.say(f"this part stops at its share of the budget, {budget_eecu_hours:.4g} EECU-hours")
        self._meter = make_meter(campaign, session, ledger, budget_eecu_hours=budget_eecu_hours, on_over=self._stop.set)
        self._sealing = SealingProcess()
        self._planners = planners
        self._started = time.monotonic()
        self._additions: list[dict[str, Any]] = []
        self._landed = 0
        self._bytes = 0
        self._planned = 0
        options = campaign.config.export
        self._quota = Quota(
            per_second=options.requests_per_second, in_flight=options.max_in_flight, on_pause=Pauses(progress).note
        )

    def run(self, modalities: Sequence[str], region: str | None, *, retry_failed: bool) -> Summary:
        layout = fix_layout(self._campaign, self._ledger, modalities, lambda: count_planned(self._campaign))
        further = further_specs(layout, self._campaign.config.export, modalities)
        check_addable(self._campaign, self._ledger, further)
        whole = self._campaign.part is None
        if whole:
            read_plan_into(self._ledger, self._campaign, self._progress)
        else:
            begin_part(self._campaign, self._ledger, layout, region, self._progress)
        # A failed chip taken up again would change a shard that a killed run left half sealed.
        _Work(campaign=self._campaign, ledger=self._ledger, layout=layout).seal_ready()
        with _draining(self._stop, self._progress), rare_searches():
            try:
                if begun_addition(self._ledger):
                    layout = self._add()
                if not begun_addition(self._ledger):  # else it is not finished, as this run is to stop
                    self._extend(layout, modalities, retry_failed=retry_failed)
            finally:
                self._sealing.close()
                self._record_run()
                if whole:
                    write_rows_to_plan(self._campaign, [self._ledger])
        if self._budget_eecu_hours is not None and self._meter.over:
            outcome = f"{self._landed} chips landed in this run"
            figures = read_figures(self._campaign, self._ledger)
            raise over_budget(self._campaign, figures, self._budget_eecu_hours, outcome)
        if self._stop.is_set():
            raise KeyboardInterrupt
        return self._summary()

    def _extend(self, layout: Layout, modalities: Sequence[str], *, retry_failed: bool) -> None:
        """Further chips, and then further arrays for all of them."""
        work = self._named_in_config(layout)
        if retry_failed:
            self._reopen_failed(layout)
        if self._campaign.part is None:
            form_open_lots(self._ledger, self._campaign, layout)
        self._work(work)
        further = further_specs(layout, self._campaign.config.export, modalities)
        if further and not self._stop.is_set():
            begin_addition(self._ledger, further)
            self._named_in_config(self._add())

    def _named_in_config(self, layout: Layout) -> _Work:
        self._campaign = with_catalogue(self._campaign, layout)
        return _Work(campaign=self._campaign, ledger=self._ledger, layout=layout)

    def _reopen_failed(self, layout: Layout) -> None:
        count, left = self._ledger.reopen_failed(
            shard_chips=layout.shard_chips, leave_sealed=self._campaign.part is not None
        )
        only = self._ledger.chosen.only
        if only and not count and not left:
            raise NothingSelectedError(
                f"no failed chip has the kind {only!r} or this in its reason",
                hint="`m3etl status` lists the kinds and reasons of failed chips.",
            )
        self._progress.say(f"{count} failed chips are tried again")
        if left:
            self._progress.say(
                f"{left} failed chips lie in sealed shards: when all parts are done, try them with "
                "`m3etl export --retry-failed` without --part"
            )

    def _work(self, work: _Work) -> None:
        """Scenes are fixed lot by lot; pixels are fetched beside it, first those that an earlier run left open."""
        planned = sum(lot.size for lot in open_lots(work.ledger))

        def plan(hand_over: Callable[[Sequence[int]], None], feed: Feed | None) -> None:
            lots = OpenLots(
                work.ledger,
                work.layout,
                stop=self._stop,
                feed=feed,
                on_settled=lambda: hand_over(work.ledger.ready_shards()),
            )
            self._planner(work).plan(lots, min(planned, work.ledger.counts().get(ChipState.WAITING, 0)))
            lots.finish()

        self._fetch(work, plan if planned else None, planned)

    def _add(self) -> Layout:
        """Bring the arrays of the addition that has begun to every row; returns the layout of the campaign then."""
        with open_addition(self._campaign, self._ledger) as (campaign, own, layout):
            self._progress.say(f"adding {', '.join(layout.specs)} to the rows that are there")
            work = _Work(campaign=campaign, ledger=own, layout=layout)
            work.seal_ready()
            waiting = own.counts().get(ChipState.WAITING, 0)

            def plan(hand_over: Callable[[Sequence[int]], None], feed: Feed | None) -> None:
                rows = RowsOfBase(self._ledger, own, stop=self._stop, feed=feed)
                self._planner(work).plan(rows, waiting)

            self._fetch(work, plan, waiting)
            shards, sealed = own.shard_counts()
            self._additions.append(describe_addition(own))
            done = sealed == shards
            return finish_addition(campaign, self._ledger, layout) if done else read_layout_of(self._ledger)

    def _planner(self, work: _Work) -> Planner:
        config, specs = work.campaign.config, tuple(work.layout.specs.values())
        rules = PlanningRules(
            specs=specs,
            config=config.export,
            seed=config.sample.seed,
            years=config.sample.years,
            must_have_scene=config.sample.strategy == "biome" and not work.campaign.addition,
            origin="archive" if self._session.local else "earthengine",
            journal=work.campaign.raw_path / journal_name,
            block_chips=block_chips_of(work.campaign, specs),
            base_wait_s=self._base_wait_s,
        )
        return Planner(
            rules,
            process=self._planners,
            service=MeteredSession(self._session, rules, self._meter),
            ledger=work.ledger,
            counts=self._planning,
            stop=self._stop,
            on_planned=self._note_planned,
            quota=self._quota,
        )

    def _note_planned(self, count: int) -> None:
        self._planned += count
        is_alone = self._campaign.config.export.lane == "batch"
        self._progress.advance(count if is_alone else 0, scenes=self._planned, questions=self._planning.requests)

    def _fetch(self, work: _Work, plan: _Plan | None, planned: int) -> None:
        """Run `plan`, which decides about `planned` chips, and fetch what is open; both at once in the pixel lane."""
        if self._stop.is_set():
            return
        work.ledger.landing_segment = -1
        sealing = SealingThread(work.sealer(self._sealing.seal))
        try:
            sealing.put(work.ledger.ready_shards())
            if work.campaign.config.export.lane == "batch":  # region tiles are cut when all their chips are known
                if plan is not None:
                    self._progress.start("scenes", planned)
                    plan(sealing.put, None)
                    self._progress.finish()
                if not self._stop.is_set():
                    self._run_lane(work, sealing.put, work.ledger.open_count())
                return
            todo = work.ledger.open_count() + planned
            if todo:
                self._sealing.expect(todo)
                self._session.use_high_volume()
                planning = Planning(lambda feed: plan and plan(sealing.put, feed), stop=self._stop)
                self._run_lane(work, sealing.put, todo, planning)
        finally:
            sealing.close()

    def _run_lane(
        self, work: _Work, hand_over: Callable[[Sequence[int]], None], todo: int, planning: Planning | None = None
    ) -> None:
        # What the lane finds open when it is made does not come by the feed, so planning begins afterwards.
        with self._open_lane(work, hand_over, planning.feed if planning else None) as lane:
            self._progress.start("pixels", todo)
            if planning:
                self._progress.advance(0, scenes=self._planned, questions=self._planning.requests)
            try:
                with planning or contextlib.nullcontext():
                    lane.run()
            finally:
                self._landed += 0 if work.campaign.addition else lane.landed
                self._bytes += lane.nbytes
            self._progress.finish()

    def _open_lane(
        self, work: _Work, hand_over: Callable[[Sequence[int]], None], feed: Feed | None
    ) -> contextlib.AbstractContextManager[Lane]:
        shared: dict[str, Any] = {
            "campaign": work.campaign,
            "session": self._session,
            "ledger": work.ledger,
            "layout": work.layout,
            "hand_over": hand_over,
            "counts": self._pixels,
            "progress": self._progress,
            "stop": self._stop,
            "base_wait_s": self._base_wait_s,
            "meter": self._meter,
        }
        if work.campaign.config.export.lane == "batch":
            from m3etl.stages.batch import open_batch_lane

            return open_batch_lane(**shared)
        return contextlib.closing(PixelLane(**shared, feed=feed, quota=self._quota))

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
            additions=self._additions,
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
        return dry_run(campaign, None, chips, modalities, chosen)
    ledger = open_ledger(campaign.ledger_path, to_read=True)
    try:
        ledger.chosen = chosen
        return dry_run(campaign, ledger, chips, modalities, chosen)
    finally:
        ledger.close()
