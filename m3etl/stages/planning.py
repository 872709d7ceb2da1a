"""Fixes the scenes of chips: asks Earth Engine in batches, decides by the recorded rule, and writes the decisions to
the ledger.

Chips go through in waves. In a wave the first question is asked in rounds (preferred year, then the others; level 2A,
then 1C), each only about chips that still lack an anchor; then one question brings what belongs to the anchors.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from m3etl.campaign import ExportConfig
from m3etl.errors import AuthenticationError, RemoteError
from m3etl.io.earthengine import Session
from m3etl.io.flow import Flow, FlowCounts, FlowStopped, Pace
from m3etl.io.ledger import Ledger, PlannedChip
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.planning import (
    Anchored,
    Companions,
    ImageList,
    Wanted,
    companions_expression,
    either_level,
    read_companions,
    read_scenes,
    scenes_expression,
)
from m3etl.io.recipes import ChipGrid
from m3etl.spec.jobs import ArrayScenes, ArrayStatus, ChipScenes
from m3etl.spec.modality import ArraySpec, Temporal
from m3etl.spec.scenes import (
    AnchorRule,
    Candidate,
    best_available,
    choose_anchor,
    choose_nearest,
    choose_pass,
    climate_features,
    day_ms,
    midsummer,
    nearest_in_time,
    utc_text,
    year_of,
    year_order,
    year_window,
)

planning_in_flight = 8  # aggregations have a small gate of their own on the standard endpoint
wave_batches = 24
least_batch, least_batches = 8, 4
question_bytes = 256 * 1024
wish_windows_days = (15, 60, 180)  # in the first the scenes nearest to the moment are scored, then the least cloudy
whole_l2a_year = 2019  # level 2A begins in December 2018 outside Europe, so before it is no sample of a year
static_years = {"elevation": 2013, "slope": 2013, "canopy_height": 2020, "worldcover": 2020}
vector_license = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChip:
    """What the plan says about a chip. wish_ms: the wished moment of the anchor, None without one."""

    grid: ChipGrid
    lon: float
    lat: float
    year: int
    biome: int
    ecoregion: int
    wish_ms: int | None

    @property
    def chip_id(self) -> str:
        """The chip's id."""
        return self.grid.chip_id


@dataclass(frozen=True, slots=True)
class _Round:
    """One question about a chip: levels, a window of time, and the moment to which the nearest scenes are scored."""

    levels: tuple[str, ...]
    start_ms: int
    end_ms: int
    wish_ms: int | None = None


@dataclass(slots=True)
class _Search:
    """The search for one chip's anchor. rounds: questions still to be asked; seen: every candidate so far."""

    chip: PlanChip
    rounds: list[_Round]
    seen: list[Candidate] = field(default_factory=list)
    anchor: Candidate | None = None
    skip_window: tuple[int, int] | None = None

    def next_round(self) -> _Round | None:
        """The next question about this chip, None when it has an anchor or nothing is left to ask."""
        while self.anchor is None and self.rounds:
            following = self.rounds[0]
            if self.skip_window != (following.start_ms, following.end_ms):
                return following
            self.rounds.pop(0)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """One request: about chips, either for scenes (searches) or for companions (searches with anchors)."""

    searches: tuple[_Search, ...]
    levels: tuple[str, ...] = ()
    companions: bool = False

    @property
    def nbytes(self) -> int:
        """A rough size of the answer."""
        return question_bytes


class ScenePlanner:
    """Plans chips with one session into one ledger. must_have_scene: chips without a good anchor are unusable."""

    def __init__(
        self,
        *,
        session: Session,
        ledger: Ledger,
        specs: Sequence[ArraySpec],
        config: ExportConfig,
        seed: int,
        years: tuple[int, int],
        must_have_scene: bool,
        counts: FlowCounts,
        stop: threading.Event,
        on_planned: Callable[[int], None],
        base_wait_s: float = 1.0,
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._specs = tuple(specs)
        self._config = config
        self._rule = AnchorRule(
            rule=config.anchor_rule, max_cloud=config.max_cloud, min_valid=config.min_valid, seed=seed
        )
        self._years = years
        self._must_have_scene = must_have_scene
        self._wants_sentinel2 = any(spec.modality == "sentinel2" for spec in specs)
        self._counts = counts
        self._stop = stop
        self._on_planned = on_planned
        self._base_wait_s = base_wait_s
        self.unanswered: list[Failure] = []

    def plan(self, chips: Sequence[PlanChip]) -> None:
        """Decide about every chip and record it. Raises RemoteError when the service could not be asked about some."""
        size = max(1, self._config.plan_batch) * wave_batches
        for start in range(0, len(chips), size):
            if self._stop.is_set():
                return
            self._plan_wave(chips[start : start + size])
        if self.unanswered:
            failure = self.unanswered[0]
            raise RemoteError(
                f"{len(self.unanswered)} planning requests failed for good, the first with: {failure.message}",
                hint="Run the same command again; what is planned already is kept.",
            )

    def _plan_wave(self, chips: Sequence[PlanChip]) -> None:
        searches = [_Search(chip, self._rounds(chip)) for chip in chips]
        if self._wants_sentinel2:
            while True:
                questions = list(self._scene_questions(searches))
                if not questions or self._stop.is_set():
                    break
                self._ask(questions)
                if self.unanswered:
                    return
        if self._stop.is_set():
            return
        for search in searches:
            if search.anchor is None and not self._must_have_scene:
                search.anchor = best_available(search.seen)
        unusable = [item for item in searches if item.anchor is None and self._needs_anchor()]
        self._ledger.record_planned(PlannedChip(chip_id=item.chip.chip_id, scenes=None) for item in unusable)
        self._on_planned(len(unusable))
        usable = [item for item in searches if item.anchor is not None or not self._needs_anchor()]
        self._ask([_Question(searches=batch, companions=True) for batch in self._batches(usable)])

    def _needs_anchor(self) -> bool:
        return self._must_have_scene and self._wants_sentinel2

    def _rounds(self, chip: PlanChip) -> list[_Round]:
        levels = {"l2a": ("l2a",), "l1c": ("l1c",)}.get(self._config.s2, ("l2a", "l1c"))
        wish = chip.wish_ms
        if wish is not None:
            nearest, *wider = ((wish - days * day_ms, wish + days * day_ms + 1) for days in wish_windows_days)
            return [_Round(levels, *nearest, wish), *(_Round(levels, *window) for window in wider)]
        years = year_order(chip.year, self._years, self._rule.seed, chip.chip_id)
        return [_Round((level,), *year_window(year)) for year in years for level in _levels_of_year(levels, year)]

    def _scene_questions(self, searches: Sequence[_Search]) -> Iterator[_Question]:
        groups: dict[tuple[tuple[str, ...], bool], list[_Search]] = {}
        for search in searches:
            following = search.next_round()
            if following is not None:
                groups.setdefault((following.levels, following.wish_ms is not None), []).append(search)
        for (levels, _), members in groups.items():
            yield from (_Question(searches=batch, levels=levels) for batch in self._batches(members))

    def _batches(self, searches: Sequence[_Search]) -> Iterator[tuple[_Search, ...]]:
        # A small selection is cut into a few batches, so that the service works on them side by side.
        size = max(1, min(self._config.plan_batch, max(least_batch, -(-len(searches) // least_batches))))
        for start in range(0, len(searches), size):
            yield tuple(searches[start : start + size])

    def _ask(self, questions: Sequence[_Question]) -> None:
        pace = Pace(
            requests_per_second=self._config.requests_per_second,
            max_in_flight=min(planning_in_flight, self._config.max_in_flight),
            max_attempts=self._config.max_attempts,
            base_wait_s=self._base_wait_s,
            start_in_flight=planning_in_flight // 2,
        )
        flow: Flow[_Question] = Flow(
            send=self._send,
            land=self._land,
            split=self._split,
            give_up=self._give_up,
            pace=pace,
            counts=self._counts,
            stop=self._stop,
        )
        try:
            flow.run(questions)
        except FlowStopped as stopped:
            raise stopped_error(stopped) from stopped

    def _send(self, question: _Question) -> Any:
        searches = question.searches
        try:
            if question.companions:
                anchored = [self._anchored(item) for item in searches]
                expression = companions_expression(
                    self._session.api, anchored, self._specs, gap_days=self._config.s1_max_gap_days
                )
                return _read(read_companions, anchored, self._specs, answer=self._session.compute_value(expression))
            wanted = [self._wanted(item) for item in searches]
            expression = scenes_expression(self._session.api, wanted, candidates=self._config.candidates)
            return _read(read_scenes, wanted, answer=self._session.compute_value(expression))
        except RequestFailed as failed:
            failure = failed.failure
            if len(searches) > 1 and failure.kind in (Kind.DETERMINISTIC, Kind.NO_DATA, Kind.SOURCE_CHANGED):
                # One chip may spoil the answer for the others: find it by halving, as with answers that are too large.
                raise RequestFailed(Failure(kind=Kind.TOO_LARGE, message=failure.message)) from failed
            raise

    def _wanted(self, search: _Search) -> Wanted:
        asked = search.rounds[0]
        return Wanted(
            chip=search.chip.grid,
            levels=asked.levels,
            start_ms=asked.start_ms,
            end_ms=asked.end_ms,
            wish_ms=asked.wish_ms,
        )

    def _anchored(self, search: _Search) -> Anchored:
        chip, anchor = search.chip, search.anchor
        time_ms = anchor.time_ms if anchor else self._anchor_time(search)
        year, month = year_of(time_ms)
        other = ""
        if anchor and self._config.s2 == "both":
            other = "l1c" if anchor.level == "l2a" else "l2a"
        return Anchored(
            chip=chip.grid,
            lon=chip.lon,
            lat=chip.lat,
            time_ms=time_ms,
            index=anchor.index if anchor else "",
            year=year_window(year),
            month=(year, month),
            other_level=other,
        )

    def _anchor_time(self, search: _Search) -> int:
        return search.chip.wish_ms if search.chip.wish_ms is not None else midsummer(search.chip.year)

    def _split(self, question: _Question, failure: Failure) -> Sequence[_Question] | None:
        searches = question.searches
        if len(searches) < 2:
            return None
        middle = len(searches) // 2
        return [
            _Question(searches=part, levels=question.levels, companions=question.companions)
            for part in (searches[:middle], searches[middle:])
        ]

    def _give_up(self, question: _Question, failure: Failure) -> None:
        if len(question.searches) == 1 and failure.kind in (
            Kind.DETERMINISTIC,
            Kind.NO_DATA,
            Kind.TOO_LARGE,
            Kind.SOURCE_CHANGED,
        ):
            search = question.searches[0]
            search.rounds.clear()
            self._ledger.record_unplannable(search.chip.chip_id, str(failure.kind), failure.message)
            self._on_planned(1)
            return
        self.unanswered.append(failure)

    def _land(self, answers: Sequence[tuple[_Question, Any]]) -> None:
        for question, answer in answers:
            if question.companions:
                self._record(question.searches, answer)
            else:
                for search, found in zip(question.searches, answer, strict=True):
                    self._take(search, found)

    def _take(self, search: _Search, found: Sequence[Candidate]) -> None:
        asked = search.rounds.pop(0)
        search.seen.extend(found)
        if search.chip.wish_ms is not None:
            search.anchor = choose_nearest(found, self._rule, search.chip.wish_ms)
            return
        search.anchor = choose_anchor(found, self._rule, search.chip.chip_id)
        if found:
            search.skip_window = (
                asked.start_ms,
                asked.end_ms,
            )  # another level of the same year would be the same acquisitions

    def _record(self, searches: Sequence[_Search], answers: Sequence[Companions]) -> None:
        origin = "archive" if self._session.local else "earthengine"
        planned = [
            PlannedChip(chip_id=item.chip.chip_id, scenes=self._scenes(item, found), origin=origin)
            for item, found in zip(searches, answers, strict=True)
        ]
        self._ledger.record_planned(planned)
        self._on_planned(len(planned))

    def _scenes(self, search: _Search, found: Companions) -> ChipScenes:
        anchored = self._anchored(search)
        anchor = search.anchor
        return ChipScenes(
            chip_id=search.chip.chip_id,
            year=anchored.month[0],
            anchor_id=anchor.scene_id if anchor else None,
            anchor_time=utc_text(anchored.time_ms),
            arrays={spec.name: self._array(spec, search, anchored, found) for spec in self._specs},
        )

    def _array(self, spec: ArraySpec, search: _Search, anchored: Anchored, found: Companions) -> ArrayScenes:
        if spec.recipe == "sentinel2":
            return _sentinel2(spec, search.anchor, anchored, found)
        if spec.recipe == "sentinel2_cloud":
            return _cloud(spec, search.anchor, found)
        if spec.recipe == "sentinel1":
            return self._sentinel1(spec, search, anchored, found)
        if spec.recipe == "era5":
            values = climate_features(found.months, *anchored.month)
            return _vector(spec, [values[name] for name in spec.bands], found.climate)
        if spec.temporal in (Temporal.PLACE, Temporal.TIME):
            return _computed(spec, search.chip, anchored.month[1])
        return _composite(spec, found.composites.get(spec.name, ImageList()))

    def _sentinel1(self, spec: ArraySpec, search: _Search, anchored: Anchored, found: Companions) -> ArrayScenes:
        chosen = choose_pass(
            found.passes.get(spec.name, ()),
            anchored.time_ms,
            max_gap_days=min(spec.max_gap_days, self._config.s1_max_gap_days),
            min_coverage=self._config.min_valid,
        )
        if not chosen:
            return ArrayScenes(status=ArrayStatus.NO_SCENE)
        return ArrayScenes(
            status=ArrayStatus.OK,
            scene_ids=tuple(item.scene_id for item in chosen),
            time=utc_text(chosen[0].time_ms),
            gap_days=_gap(chosen[0].time_ms, anchored.time_ms) if search.anchor else None,
            valid_fraction=round(min(1.0, sum(item.coverage for item in chosen)), 6),
            license=_license(spec, [item.license for item in chosen], any(item.synthetic for item in chosen)),
            synthetic=any(item.synthetic for item in chosen),
        )


def _levels_of_year(levels: tuple[str, ...], year: int) -> tuple[str, ...]:
    """The levels to ask for one after the other: the first that has any scene decides."""
    return levels if len(levels) == 1 or year >= whole_l2a_year else (either_level, "l2a")


def stopped_error(stopped: FlowStopped) -> RemoteError:
    """What the user is told when a run can't go on."""
    failure = stopped.failure
    if failure.kind is Kind.AUTH:
        return AuthenticationError(
            f"Earth Engine rejected the login: {failure.message}",
            hint="Log in again with `earthengine authenticate` (or name another project), then run the same command; "
            "nothing landed is lost.",
        )
    return RemoteError(
        f"Earth Engine has not answered for a while; the last outcome was {failure.kind}: {failure.message}",
        hint="Run the same command again later; nothing landed is lost.",
    )


def _read(reader: Callable[..., Any], *arguments: Any, answer: Any) -> Any:
    try:
        return reader(*arguments, answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"the planning answer cannot be read: {type(error).__name__}: {error}"
        raise RequestFailed(Failure(kind=Kind.TRANSIENT, message=message)) from error


def _gap(time_ms: int, anchor_ms: int) -> float:
    return round((time_ms - anchor_ms) / day_ms, 6)


def _license(spec: ArraySpec, licenses: Sequence[str], synthetic: bool) -> str:
    stated = sorted({item for item in licenses if item})
    if stated:
        return " AND ".join(stated)
    return "synthetic" if synthetic else spec.license


def _sentinel2(spec: ArraySpec, anchor: Candidate | None, anchored: Anchored, found: Companions) -> ArrayScenes:
    if anchor is None:
        return ArrayScenes(status=ArrayStatus.NO_SCENE)
    level = spec.name.rpartition("_")[2]
    scene: Candidate | None = anchor
    if anchor.level != level:
        scene = nearest_in_time(found.other, anchored.time_ms, anchor.index) if anchored.other_level == level else None
    if scene is None:
        return ArrayScenes(status=ArrayStatus.NO_SCENE)
    return ArrayScenes(
        status=ArrayStatus.OK,
        scene_ids=(scene.scene_id,),
        time=utc_text(scene.time_ms),
        gap_days=_gap(scene.time_ms, anchored.time_ms),
        cloud_fraction=scene.cloud,
        valid_fraction=scene.valid,
        license=_license(spec, [scene.license], scene.synthetic),
        synthetic=scene.synthetic,
    )


def _cloud(spec: ArraySpec, anchor: Candidate | None, found: Companions) -> ArrayScenes:
    sources = (found.cloud_scores, found.classifications)
    scene_ids = tuple(scene_id for source in sources for scene_id in source.scene_ids[:1])
    if anchor is None or not scene_ids:
        return ArrayScenes(status=ArrayStatus.NO_SCENE)
    synthetic = any(source.synthetic for source in sources)
    return ArrayScenes(
        status=ArrayStatus.OK,
        scene_ids=scene_ids,
        time=utc_text(anchor.time_ms),
        gap_days=0.0,
        cloud_fraction=anchor.cloud,
        license=_license(spec, [item for source in sources for item in source.licenses], synthetic),
        synthetic=synthetic,
    )


def _composite(spec: ArraySpec, images: ImageList) -> ArrayScenes:
    if not images.scene_ids:
        return ArrayScenes(status=ArrayStatus.NO_SCENE)
    time_ms = images.time_ms
    if time_ms is None and spec.recipe in static_years:
        time_ms = year_window(static_years[spec.recipe])[0]
    return ArrayScenes(
        status=ArrayStatus.OK,
        scene_ids=images.scene_ids,
        time=None if time_ms is None else utc_text(time_ms),
        license=_license(spec, images.licenses, images.synthetic),
        synthetic=images.synthetic,
    )


def _vector(spec: ArraySpec, values: Sequence[float | None], images: ImageList) -> ArrayScenes:
    known = any(value is not None for value in values)
    return ArrayScenes(
        status=ArrayStatus.OK if known else ArrayStatus.NO_SCENE,
        scene_ids=images.scene_ids if known else (),
        time=None if images.time_ms is None or not known else utc_text(images.time_ms),
        values=tuple(values),
        license=_license(spec, images.licenses, images.synthetic) if known else "",
        synthetic=images.synthetic and known,
    )


def _computed(spec: ArraySpec, chip: PlanChip, month: int) -> ArrayScenes:
    lat, lon, turn = math.radians(chip.lat), math.radians(chip.lon), 2 * math.pi * month / 12
    values: dict[str, float | None] = {
        "biome": float(chip.biome) if chip.biome >= 0 else None,
        "ecoregion": float(chip.ecoregion) if chip.ecoregion >= 0 else None,
        "sin_lat": math.sin(lat),
        "cos_lat": math.cos(lat),
        "sin_lon": math.sin(lon),
        "cos_lon": math.cos(lon),
        "sin_month": math.sin(turn),
        "cos_month": math.cos(turn),
    }
    chosen = tuple(values[band] for band in spec.bands)
    known = chosen[0] is not None
    return ArrayScenes(
        status=ArrayStatus.OK if known else ArrayStatus.NO_SCENE,
        scene_ids=spec.source if known else (),
        values=chosen,
        license=spec.license if known else "",
    )
