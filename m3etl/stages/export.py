"""`export`: fixes scenes in batches, fetches every chip's pixels, seals shards as their chips become final; goes on
where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from m3etl.campaign import Campaign, ExportConfig, locked, read_config, save_config
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.earthengine import Session
from m3etl.io.flow import FlowCounts
from m3etl.io.ledger import ChipState, Ledger, open_ledger
from m3etl.io.outcomes import Kind, retry_may_help
from m3etl.io.plan import iterate_plan, write_plan
from m3etl.io.recipes import ChipGrid
from m3etl.io.regions import read_region
from m3etl.io.store import choose_shard_chips
from m3etl.spec.budget import estimate
from m3etl.spec.catalog import select_arrays
from m3etl.spec.hashing import stream
from m3etl.spec.modality import ArraySpec
from m3etl.spec.replacement import ReserveRow, next_to_plan
from m3etl.spec.scenes import utc_ms
from m3etl.stages.fetching import Lane, PixelLane, SealingThread
from m3etl.stages.planning import PlanChip, ScenePlanner
from m3etl.stages.summary import Progress, Summary
from m3etl.stages.tile import Layout, Sealer

block_side = 8  # wall-to-wall plans: chips a side of the blocks whose order is drawn


def run_export(
    campaign: Campaign,
    *,
    session: Session | None,
    region: str | None = None,
    modalities: Sequence[str] = (),
    s2: str | None = None,
    lane: str | None = None,
    bucket: str | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    progress: Progress,
    base_wait_s: float = 1.0,
) -> Summary:
    """Export the planned chips whose centre lies in `region` (all without one), with the arrays of `modalities`.

    The arrays are fixed by the first export, and `s2` (auto, l2a, l1c or both; as configured without one) with them.
    lane: pixels or batch, `bucket`: where batch exports go (gs://NAME/prefix); as configured without them.
    `dry_run` sends nothing and needs no session. `retry_failed` takes chips up again that had failed for good.
    base_wait_s: first back-off after a failure. `failed` of the summary counts quarantined chips, `errors` their
    reasons; everything else is sealed.

    Raises NothingSelectedError where no planned chip lies in the region, InputError for arrays that were not part of
    the first export, RemoteError where the service refuses or does not answer, KeyboardInterrupt after Ctrl-C, when
    what was in flight has landed.
    """
    options = campaign.config.export
    campaign = campaign.with_config(
        export=replace(options, s2=s2 or options.s2, lane=lane or options.lane, bucket=bucket or options.bucket)
    )
    plan = _read_chips(campaign)
    selected = _select(plan, region)
    if dry_run:
        return _dry_run(campaign, selected, _wanted_specs(campaign.config.export, modalities), campaign.config.export)
    if session is None:
        raise InputError("an export needs a connection to Earth Engine", hint="Name one with --ee-url, or log in.")
    with locked(campaign):
        ledger = open_ledger(campaign.ledger_path)
        try:
            export = _Export(campaign, session, ledger, plan, progress, base_wait_s)
            return export.run(selected, modalities, retry_failed=retry_failed)
        finally:
            ledger.close()


class _Export:
    """One run: planning, pixels, sealing. The coordinating thread is the caller's."""

    def __init__(
        self,
        campaign: Campaign,
        session: Session,
        ledger: Ledger,
        plan: pd.DataFrame,
        progress: Progress,
        base_wait_s: float,
    ) -> None:
        self._campaign = campaign
        self._session = session
        self._ledger = ledger
        self._plan = plan
        self._progress = progress
        self._base_wait_s = base_wait_s
        self._planning = FlowCounts()
        self._pixels = FlowCounts()
        self._stop = threading.Event()
        self._started = time.monotonic()
        self._landed = 0
        self._bytes = 0

    def run(self, selected: pd.DataFrame, modalities: Sequence[str], *, retry_failed: bool) -> Summary:
        layout = self._fix_layout(modalities)
        self._synchronise_plan()
        self._seal_ready(layout)
        if retry_failed:
            count = self._ledger.reopen_failed(shard_chips=layout.shard_chips, chip_ids=selected["chip_id"].tolist())
            self._progress.say(f"{count} failed chips are tried again")
        with _draining(self._stop, self._progress):
            try:
                self._plan_scenes(selected, layout)
                if not self._stop.is_set():
                    self._fix_generation(selected, layout)
                    self._fetch(layout)
            finally:
                self._record_run()
        if self._stop.is_set():
            raise KeyboardInterrupt
        return self._summary(selected)

    def _seal_ready(self, layout: Layout) -> None:
        # What a killed run left half sealed must not change any more, as a failed chip taken up again would make it.
        sealer = Sealer(self._campaign, self._ledger, layout)
        for shard in self._ledger.ready_shards():
            sealer.seal(shard)

    # --- what is fixed once -------------------------------------------------------------------------------------------

    def _fix_layout(self, modalities: Sequence[str]) -> Layout:
        campaign, ledger = self._campaign, self._ledger
        names = ledger.read_meta("arrays")
        if names is None:
            specs = _wanted_specs(campaign.config.export, modalities)
            planned = int((~self._plan["reserve"]).sum())
            shard_chips = campaign.config.store.shard_chips or choose_shard_chips(planned, specs, campaign.chip_m)
            ledger.write_meta("shard_chips", shard_chips)
            ledger.write_meta("s2", campaign.config.export.s2)
            ledger.write_meta("catalogue", {spec.name: spec.digest() for spec in specs})
            ledger.write_meta("arrays", [spec.name for spec in specs])
            names = [spec.name for spec in specs]
        every = {spec.name: spec for spec in select_arrays()}
        _check_catalogue({**ledger.read_meta("catalogue"), **campaign.config.catalogue}, every)
        _check_level(campaign.config.export.s2, ledger.read_meta("s2"))
        fixed = {name: every[name] for name in names}
        _check_modalities(modalities, tuple(fixed.values()))
        self._save_catalogue(tuple(fixed.values()))
        return Layout(specs=fixed, shard_chips=int(ledger.read_meta("shard_chips")))

    def _save_catalogue(self, specs: Sequence[ArraySpec]) -> None:
        digests = {spec.name: spec.digest() for spec in specs}
        self._campaign = self._campaign.with_config(catalogue=digests)
        if read_config(self._campaign.config_path) != self._campaign.config:
            save_config(self._campaign)

    def _synchronise_plan(self) -> None:
        rows = {chip_id: (row, generation) for chip_id, row, generation in self._ledger.rows()}
        row = np.array([rows.get(chip_id, (-1, -1))[0] for chip_id in self._plan["chip_id"]], dtype=np.int64)
        generation = np.array([rows.get(chip_id, (-1, -1))[1] for chip_id in self._plan["chip_id"]], dtype=np.int32)
        same = (row == self._plan["row"].to_numpy()).all() and (generation == self._plan["generation"].to_numpy()).all()
        if not same:
            self._plan = self._plan.assign(row=row, generation=generation)
            write_plan(self._campaign.plan_path, self._plan)

    # --- scenes -------------------------------------------------------------------------------------------------------

    def _plan_scenes(self, selected: pd.DataFrame, layout: Layout) -> None:
        config = self._campaign.config
        by_biome = config.sample.strategy == "biome"
        reserve = [_reserve_row(item) for item in selected.itertuples()]
        positions = {chip_id: position for position, chip_id in enumerate(selected["chip_id"])}
        planner = ScenePlanner(
            session=self._session,
            ledger=self._ledger,
            specs=tuple(layout.specs.values()),
            config=config.export,
            seed=config.sample.seed,
            years=config.sample.years,
            must_have_scene=by_biome,
            counts=self._planning,
            stop=self._stop,
            on_planned=lambda count: self._progress.advance(count, requests=self._planning.requests),
            base_wait_s=self._base_wait_s,
        )
        while not self._stop.is_set():
            chosen = next_to_plan(reserve, _usability(self._ledger.states()))
            if not chosen:
                break
            self._progress.start("scenes", len(chosen))
            planner.plan([_plan_chip(selected.iloc[positions[chip_id]], config.sample.chip_px) for chip_id in chosen])
            self._progress.finish()

    def _fix_generation(self, selected: pd.DataFrame, layout: Layout) -> None:
        names = set(selected["chip_id"])
        unfixed = [chip_id for chip_id in self._ledger.unfixed() if chip_id in names]
        if not unfixed:
            return
        order = _row_order(
            selected.set_index("chip_id", drop=False).loc[unfixed],
            seed=self._campaign.config.sample.seed,
            generation=self._ledger.generation_count(),
            wall_to_wall=self._campaign.config.sample.strategy == "grid",
        )
        self._ledger.fix_generation(order, shard_chips=layout.shard_chips)
        self._synchronise_plan()

    # --- pixels -------------------------------------------------------------------------------------------------------

    def _fetch(self, layout: Layout) -> None:
        sealing = SealingThread(Sealer(self._campaign, self._ledger, layout))
        todo = self._ledger.open_count()
        try:
            if todo:
                with self._open_lane(layout, sealing.put) as lane:
                    self._progress.start("pixels", todo)
                    try:
                        lane.run()
                    finally:
                        self._landed, self._bytes = lane.landed, lane.nbytes
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
        }
        if self._campaign.config.export.lane == "batch":
            from m3etl.stages.batch import open_batch_lane

            return open_batch_lane(**shared)
        self._session.use_high_volume()
        return contextlib.closing(PixelLane(**shared))

    def _record_run(self) -> None:
        seconds = time.monotonic() - self._started
        self._ledger.add_totals(
            {
                "planning_requests": self._planning.requests,
                "pixel_requests": self._pixels.requests,
                "retries": self._planning.retries + self._pixels.retries,
                "bytes": self._bytes,
                "seconds": seconds,
            }
        )
        if self._landed:
            self._ledger.write_meta("last_run", {"chips": self._landed, "seconds": round(seconds, 3)})

    def _summary(self, selected: pd.DataFrame) -> Summary:
        states = self._ledger.states()
        mine = [states[chip_id] for chip_id in selected["chip_id"] if chip_id in states]
        done = sum(state in (ChipState.SEALED, ChipState.LANDED) for state in mine)
        failed = sum(state is ChipState.FAILED for state in mine)
        failures = self._ledger.failures() if failed else []
        if any(Kind(kind) in retry_may_help for kind, _, _ in failures):
            self._progress.say(
                "some chips failed for reasons that may pass: try them with `m3etl export --retry-failed`"
            )
        requests = self._planning.requests + self._pixels.requests
        refused = self._planning.outcomes[Kind.RATE] + self._pixels.outcomes[Kind.RATE]
        facts: dict[str, Any] = {
            "chips": done,
            "new chips": self._landed,
            "requests": requests,
            "requests per chip": round(requests / self._landed, 3) if self._landed else None,
            "planning requests": self._planning.requests,
            "bytes": self._bytes,
            "retries": self._planning.retries + self._pixels.retries,
            "refused for rate": refused,
            "peak in flight": self._pixels.peak_in_flight,
        }
        if self._campaign.config.sample.strategy == "biome":
            facts["biomes"] = _biome_rows(selected, states)
        facts["valid fractions"] = [
            {"array": name, "valid": round(value, 4)} for name, value in self._ledger.valid_fractions().items()
        ]
        return Summary(
            stage="export",
            done=done,
            skipped=done - self._landed,
            rejected=sum(state is ChipState.UNUSABLE for state in mine),
            failed=failed,
            seconds=time.monotonic() - self._started,
            errors={f"{kind}: {reason}": chips for kind, reason, chips in failures},
            facts=facts,
        )


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


def _read_chips(campaign: Campaign) -> pd.DataFrame:
    plan = pd.concat(iterate_plan(campaign.plan_path), ignore_index=True)
    if "reserve" not in plan:
        plan["reserve"] = False
    return plan


def _select(plan: pd.DataFrame, region: str | None) -> pd.DataFrame:
    if region is None:
        return plan
    inside = read_region(region).contains_lonlat(plan["lon"].to_numpy(), plan["lat"].to_numpy())
    selected = plan[inside]
    if not (~selected["reserve"]).any():
        raise NothingSelectedError(
            f"none of the {int((~plan['reserve']).sum())} planned chips lies in the region {region!r}",
            hint=f"Draw chips there with `m3etl sample --region {region}` in another campaign, or wall to wall with "
            f"`m3etl sample --region {region} --strategy grid`.",
        )
    return selected


def _wanted_specs(config: ExportConfig, modalities: Sequence[str]) -> tuple[ArraySpec, ...]:
    if config.s2 not in ("auto", "l2a", "l1c", "both"):
        raise InputError(f"unknown s2 level: {config.s2!r}", hint="Use auto, l2a, l1c or both.")
    if config.lane not in ("pixels", "batch"):
        raise InputError(f"unknown lane: {config.lane!r}", hint="Use pixels or batch.")
    if config.anchor_rule not in ("random", "best"):
        raise InputError(f"unknown anchor rule: {config.anchor_rule!r}", hint="Use random or best.")
    left_out = {"l2a": "sentinel2_l1c", "l1c": "sentinel2_l2a"}.get(config.s2, "")
    return tuple(spec for spec in select_arrays(modalities or config.modalities) if spec.name != left_out)


def _check_catalogue(recorded: Mapping[str, str], known: Mapping[str, ArraySpec]) -> None:
    changed = sorted(name for name, digest in recorded.items() if name not in known or known[name].digest() != digest)
    if changed:
        raise InputError(
            f"the catalogue declares these arrays otherwise than when the campaign began: {', '.join(changed)}",
            hint="Go on with the m3etl that began it, or start another campaign.",
        )


def _check_level(wanted: str, fixed: str) -> None:
    if wanted != fixed:
        raise InputError(
            f"the first export fixed the Sentinel-2 level {fixed!r}; {wanted!r} was asked for now",
            hint=f"Go on with `--s2 {fixed}`, or start another campaign.",
        )


def _check_modalities(modalities: Sequence[str], specs: Sequence[ArraySpec]) -> None:
    fixed = {spec.modality for spec in specs}
    further = [spec.modality for spec in select_arrays(modalities) if spec.modality not in fixed] if modalities else []
    if further:
        raise InputError(
            f"the first export fixed the modalities {', '.join(sorted(fixed))}; {', '.join(dict.fromkeys(further))} "
            "cannot be added to its rows",
            hint="Export them into another campaign with the same plan (copy campaign.toml's [sample] section).",
        )


def _usability(states: Mapping[str, ChipState]) -> dict[str, bool]:
    return {chip_id: state is not ChipState.UNUSABLE for chip_id, state in states.items()}


def _reserve_row(item: Any) -> ReserveRow:
    return ReserveRow(
        chip_id=item.chip_id, biome=int(item.biome), ecoregion=int(item.ecoregion), reserve=bool(item.reserve)
    )


def _plan_chip(row: Any, chip_px: int) -> PlanChip:
    wish = row.get("date")
    return PlanChip(
        grid=ChipGrid(
            chip_id=str(row["chip_id"]),
            epsg=int(row["epsg"]),
            xmin=float(row["xmin"]),
            ymax=float(row["ymax"]),
            chip_px=chip_px,
        ),
        lon=float(row["lon"]),
        lat=float(row["lat"]),
        year=int(row["year"]),
        biome=int(row["biome"]),
        ecoregion=int(row["ecoregion"]),
        wish_ms=None if wish is None or pd.isna(wish) or wish == "" else _wish(wish, str(row["chip_id"])),
    )


def _wish(value: Any, chip_id: str) -> int:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    try:
        return utc_ms(text)
    except ValueError as error:
        raise InputError(
            f"chip {chip_id} has the date {text!r}, which cannot be read",
            hint="Use ISO 8601: 2020-04-08 or with a time.",
        ) from error


def _row_order(chips: pd.DataFrame, *, seed: int, generation: int, wall_to_wall: bool) -> list[str]:
    """Chip ids in the order of their rows: drawn chip by chip, or for wall-to-wall plans by blocks of neighbours."""
    names = sorted(chips["chip_id"])
    if not wall_to_wall:
        return [names[item] for item in stream(seed, "rows", generation).permutation(len(names)).tolist()]
    side = float(chips["xmax"].iloc[0] - chips["xmin"].iloc[0])
    ordered = chips.loc[names]
    column = np.floor(ordered["xmin"].to_numpy() / side).astype(int)
    row = np.floor(ordered["ymin"].to_numpy() / side).astype(int)
    keys = [
        (_block_key(seed, generation, int(epsg), c // block_side, r // block_side), int(epsg), -r, c, name)
        for epsg, c, r, name in zip(ordered["epsg"], column.tolist(), row.tolist(), names, strict=True)
    ]
    return [item[-1] for item in sorted(keys)]


def _block_key(seed: int, generation: int, epsg: int, column: int, row: int) -> bytes:
    return hashlib.sha256(f"block {seed} {generation} {epsg} {column} {row}".encode()).digest()


def _biome_rows(selected: pd.DataFrame, states: Mapping[str, ChipState]) -> list[dict[str, Any]]:
    rows = []
    for biome, chips in selected.groupby("biome"):
        primary = int((~chips["reserve"]).sum())
        known = [states.get(chip_id) for chip_id in chips["chip_id"]]
        used = sum(state in (ChipState.SEALED, ChipState.LANDED, ChipState.PLANNED) for state in known)
        replaced = sum(
            states.get(chip_id) not in (None, ChipState.UNUSABLE) for chip_id in chips.loc[chips["reserve"], "chip_id"]
        )
        rows.append({"biome": int(str(biome)), "planned": primary, "usable": used, "from the reserve": replaced})
    return rows


def _dry_run(campaign: Campaign, selected: pd.DataFrame, specs: Sequence[ArraySpec], config: ExportConfig) -> Summary:
    chips = int((~selected["reserve"]).sum())
    figures = estimate(
        chips=chips,
        specs=specs,
        chip_m=campaign.chip_m,
        chip_px=campaign.config.sample.chip_px,
        plan_batch=config.plan_batch,
        requests_per_second=config.requests_per_second,
        check_every=config.check_every,
    )
    return Summary(stage="export", skipped=chips, facts={"dry run": "nothing was requested", **figures})
