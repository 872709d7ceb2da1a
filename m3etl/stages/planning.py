"""Fixes the scenes of chips: asks Earth Engine in batches, decides by the recorded rule, and writes the decisions to
the ledger.

Places (chips, or blocks of neighbouring chips) go through one after the other, many at a time: first their preferred
year is asked about, then what belongs to the anchor that was found, or the other years where none was. Where a scene of
each season is wanted, the seasons of the anchor's year come between. A question holds whatever is to be asked just
then, so what is decided about a place never hangs on which others it was asked with. A group of places (a lot) is
asked about while answers about the one before it are still to come, so that its end holds nothing up.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3etl.errors import AuthenticationError, RemoteError
from m3etl.io.blocks import block_of
from m3etl.io.flow import Flow, FlowCounts, FlowStopped, Pace, Quota, of_the_service
from m3etl.io.journal import AnswerJournal, place_of, question_key
from m3etl.io.ledger import PlannedChip
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.planning import Anchored, Answers, Companions, Questions, Wanted, read_question
from m3etl.spec.budget import first_questions_about, items_of_first, most_growth, planning_at_first
from m3etl.spec.catalog_dates import recipes_of_dates
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.dates import choose_dates, season_middle, season_rounds
from m3etl.spec.hashing import stream
from m3etl.spec.scenes import AnchorRule, Candidate, best_available, midsummer, year_of, year_window
from m3etl.spec.search import Round, Search, rounds_of
from m3etl.stages import feeding
from m3etl.stages.asking import Decisions, Groups, PlanningRules, Service
from m3etl.stages.decisions import Decision, PlanChip

# Aggregations have a small gate of their own on the standard endpoint: many at a time while chips are waited for only.
planning_in_flight, planning_ahead = 24, 12  # begins with `planning_at_first`
enough_s = 2.0  # of fetching, in chips that are decided
few_places = 3  # so few may fail alone without anything being wrong with the service
journal_answers = 4096  # kept before those that are used up are dropped
least_items, least_questions = 32, 2  # a small selection is cut into few questions that the service works on together
open_batches = 24  # of places that are begun and not done, each with the items of a first question
least_answer_s, most_answer_s = 1.0, 30.0  # aimed at; the service works for at most 300 s on a question
question_bytes = 256 * 1024
groups_at_once = 3  # the first of them may wait for the answers about its last places, and about those in their place

_Answers = dict[str, tuple[Candidate, ...]]  # by key, see `question_key`


@dataclass(slots=True, eq=False)
class _Group:
    """Places that are settled together. left: those not recorded."""

    left: int = 0


@dataclass(slots=True, eq=False)
class _Place:
    """One chip or block with its search. anchor: found or settled for; final: nothing is left to be asked or decided
    about the anchor; pending: things that are asked and not answered; done: recorded.
    """

    group: _Group
    grid: ChipGrid
    chips: tuple[PlanChip, ...]
    search: Search
    anchor: Candidate | None = None
    final: bool = False
    pending: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class _Item:
    """One thing to be asked about a place: its scenes in one round, or (None) its companions."""

    place: _Place
    asked: Round | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """One request."""

    items: tuple[_Item, ...]

    @property
    def nbytes(self) -> int:
        """A rough size of the answer."""
        return question_bytes

    @property
    def scenes(self) -> list[tuple[_Place, Round]]:
        return [(item.place, item.asked) for item in self.items if item.asked is not None]

    @property
    def companions(self) -> list[_Place]:
        return [item.place for item in self.items if item.asked is None]


class _Selection:
    """How far the planning of some groups is. Used from the coordinating thread and the one that takes answers in.

    groups: not settled, in order; is_last: there are no further ones; places: how many were taken in; fresh: places not
    begun; open: begun and not done; items: to be asked; out: questions that are not answered; lost: open
    places about which nothing is left to be asked; known: answers of a run that was broken off; names: of the places in
    the first groups, the only ones that it can have asked about.
    """

    def __init__(self, known: _Answers) -> None:
        self.groups: deque[_Group] = deque()
        self.is_last = False
        self.places = 0
        self.fresh: deque[_Place] = deque()
        self.open: set[_Place] = set()
        self.items: deque[_Item] = deque()
        self.lost: list[_Place] = []
        self.out = self.journaled = 0
        self.known = known
        self.names: set[str] | None = set() if known else None
        self.lock = threading.Lock()

    @property
    def may_take(self) -> bool:
        return not self.is_last and len(self.groups) < groups_at_once

    @property
    def is_over(self) -> bool:
        return self.is_last and not self.groups

    def finish(self, places: Iterable[_Place]) -> None:
        """Places that are recorded."""
        with self.lock:
            for place in places:
                place.done = True
                place.group.left -= 1
                self.open.discard(place)


class _BatchSize:
    """Items per question: small at first, so that there is something to fetch, then as many as are answered while there
    is; doubles while answers come quickly, and stays below what was too much.
    """

    def __init__(self, start: int) -> None:
        self._start = self._size = max(1, start)
        self._most = self._size * most_growth
        self._item_s = 0.0  # that the last answer took for each item
        self._asked = 0
        self.first = 0  # questions that are small, and as many about what follows from their answers

    @property
    def now(self) -> int:
        """Most items of a question."""
        return self._size

    def next(self, ahead_s: float) -> int:
        """Items of the next question, when what is decided can be fetched for so long."""
        if self._asked < 2 * self.first:
            return min(self._size, items_of_first(self._asked, self.first))
        aimed_s = min(max(least_answer_s, ahead_s / 2), most_answer_s)  # a chip takes two questions
        if self._item_s * self._size > aimed_s:
            return min(self._size, max(self._start, int(aimed_s / self._item_s)))
        return self._size

    def at_first(self, places: int) -> int:
        """Most items of a question while not all of so many places are begun."""
        return max(least_items, -(-places // least_questions))

    def asked(self) -> None:
        """A question goes out."""
        self._asked += 1

    def answered(self, count: int, seconds: float) -> None:
        """A question about so many items took so long."""
        if 2 * count > self._start:  # what a small one takes is not for its items
            self._item_s = seconds / count
        if 2 * count > self._size and seconds < most_answer_s:
            self._size = min(self._most, self._size * 2)

    def too_much(self, count: int) -> None:
        """A question about so many items was more than the service can answer."""
        self._most = max(1, min(self._most, count // 2))
        self._size = min(self._size, self._most)


class ScenePlanner:
    """Plans chips by asking one service and telling one ledger. quota: shared with those who fetch pixels, its own
    without one.
    """

    def __init__(
        self,
        rules: PlanningRules,
        *,
        service: Service,
        ledger: Decisions,
        counts: FlowCounts,
        stop: threading.Event,
        quota: Quota | None = None,
    ) -> None:
        self._rules = rules
        self._service = service
        self._ledger = ledger
        config = self._config = rules.config
        self._rule = AnchorRule(
            rule=config.anchor_rule, max_cloud=config.max_cloud, min_valid=config.min_valid, seed=rules.seed
        )
        self._wants_dates = any(spec.recipe in recipes_of_dates for spec in rules.specs)
        self._wants_sentinel2 = any(spec.modality == "sentinel2" for spec in rules.specs)
        self._counts = counts
        self._stop = stop
        self._journal = AnswerJournal(rules.journal) if rules.journal is not None else None
        self._quota = quota
        self._size = _BatchSize(config.plan_batch)
        self._questions = Questions(rules.specs, service.encode)
        self.unanswered: list[Failure] = []
        self._work = _Selection({})
        self._answered: set[bool] = set()  # what was answered: companions, scenes

    def plan(self, groups: Groups, chips: int = 0) -> None:
        """Decide about every chip and record it; they are about so many. Raises RemoteError when the service could not
        be asked about some.
        """
        self._size.first = first_questions_about(chips)
        self._work = _Selection(self._journal.read() if self._journal else {})
        self._answered = set()
        if not self._stop.is_set():
            self._ask(groups)
        if self.unanswered:
            failure = self.unanswered[0]
            raise RemoteError(
                f"{len(self.unanswered)} planning requests failed for good, the first with: {failure.message}",
                hint="Run the same command again; what is planned already is kept.",
            )
        if self._journal and not self._stop.is_set():
            self._journal.keep({})  # what is left is about places that were not to be planned

    def _places(self, group: _Group, chips: Sequence[PlanChip]) -> list[_Place]:
        places: dict[tuple[Any, ...], tuple[ChipGrid, list[PlanChip]]] = {}
        for chip in chips:
            grid = block_of(chip.grid, self._rules.block_chips)
            places.setdefault((grid.chip_id, chip.wish_ms, chip.anchor), (grid, []))[1].append(chip)
        group.left += len(places)  # all it had before are done
        self._work.places += len(places)
        if self._work.names is not None:
            self._work.names |= {grid.chip_id for grid, _ in places.values()}
        return [
            _Place(group, grid, tuple(members), self._search(grid, members[0])) for grid, members in places.values()
        ]

    def _search(self, grid: ChipGrid, chip: PlanChip) -> Search:
        first, last = self._rules.years
        year = chip.year
        if grid.chips > 1:  # a block's year must not depend on which of its chips are planned together
            year = first + int(stream(self._rule.seed, f"year {grid.chip_id}").integers(last - first + 1))
        rounds = rounds_of(
            s2=self._config.s2,
            key=grid.chip_id,
            year=year,
            years=self._rules.years,
            seed=self._rule.seed,
            wish_ms=chip.wish_ms,
        )
        return Search(key=grid.chip_id, rule=self._rule, rounds=rounds, wish_ms=chip.wish_ms)

    # --- what is asked next -------------------------------------------------------------------------------------------

    def _to_ask(self, groups: Groups) -> Iterator[_Question | None]:
        """Questions until every group is settled; None while there is nothing to be asked. A small one waits for others
        as long as answers are due that more questions may follow from.
        """
        work = self._work
        while not self.unanswered:
            self._settle(groups)
            self._take_in(groups)
            if work.is_over:
                return
            waiting = groups.waiting()
            may_begin = waiting is None or waiting < feeding.chips_ahead
            ahead_s = math.inf if waiting is None else waiting / self._config.requests_per_second
            size = self._size.next(ahead_s)
            if work.fresh:
                size = min(size, self._size.at_first(work.places))
            with work.lock:
                while work.fresh and len(work.items) < size and may_begin and self._has_place():
                    self._begin(work.fresh.popleft())
            self._record_lost()
            with work.lock:
                waits = work.out and 4 * len(work.items) < 3 * size
                waits = waits or (work.out >= planning_ahead and ahead_s > enough_s)
                items = [] if waits else [work.items.popleft() for _ in range(min(size, len(work.items)))]
                if items:
                    work.out += 1
                    self._size.asked()
            yield _Question(items=tuple(items)) if items else None

    def _settle(self, groups: Groups) -> None:
        """Settle the groups all of whose places are done, one after the other."""
        work = self._work
        while work.groups and not work.groups[0].left:
            instead = groups.settle()
            if not instead:
                work.groups.popleft()
                continue
            work.fresh.extendleft(reversed(self._places(work.groups[0], instead)))  # the group waits for nothing else

    def _take_in(self, groups: Groups) -> None:
        """Take in further groups when all places of the others are about to be begun, and as many as there may be where
        answers of a run that was broken off are known.
        """
        work = self._work
        while (work.names is not None or len(work.fresh) < self._size.now) and work.may_take:
            chips = groups.next_group()
            work.is_last = chips is None
            if chips is not None:
                work.groups.append(_Group())
                work.fresh.extend(self._places(work.groups[-1], chips))
        if work.names is not None:
            with work.lock:
                work.known = {key: found for key, found in work.known.items() if place_of(key) in work.names}
            work.names = None

    def _has_place(self) -> bool:
        return len(self._work.open) < max(1, self._config.plan_batch) * open_batches

    def _begin(self, place: _Place) -> None:
        work = self._work
        work.open.add(place)
        place.anchor = place.chips[0].anchor
        place.final = place.anchor is not None or not self._wants_sentinel2
        self._take_known(place, place.search.rounds)
        self._advance(place)

    def _take_known(self, place: _Place, rounds: Iterable[Round]) -> None:
        for asked in rounds:
            found = self._work.known.pop(self._key(place, asked), None)
            if found is not None:
                place.search.answers[asked] = found

    def _advance(self, place: _Place) -> None:
        """Whatever follows from the answers about a place, all of which are there."""
        items = list(self._next_items(place))
        place.pending = len(items)
        self._work.items.extend(items)
        if not items:
            self._work.lost.append(place)

    def _next_items(self, place: _Place) -> Iterator[_Item]:
        if not place.final:
            place.anchor, missing = place.search.advance()
            if missing:
                yield from (_Item(place, asked) for asked in missing)
                return
            place.final = True
            if place.anchor is None and not self._rules.must_have_scene:
                place.anchor = best_available(place.search.seen)
        if place.anchor is not None or not self._needs_anchor():
            missing = self._missing_dates(place)
            yield from (_Item(place, asked) for asked in missing or (None,))

    def _missing_dates(self, place: _Place) -> tuple[Round, ...]:
        """The seasons of the anchor's year that are still to be asked about, where a scene of each is wanted."""
        if not self._wants_dates:
            return ()
        rounds = season_rounds(self._year_of(place)).values()
        self._take_known(place, rounds)
        return tuple(asked for asked in rounds if asked not in place.search.answers)

    def _dates(self, place: _Place) -> dict[str, Candidate | None]:
        if not self._wants_dates:
            return {}
        return choose_dates(self._year_of(place), place.search.answers, self._rule, place.grid.chip_id)

    def _record_lost(self) -> None:
        """Record the places about which nothing is left to be asked as unusable."""
        work = self._work
        with work.lock:
            lost, work.lost = work.lost, []
        names = [chip.chip_id for place in lost for chip in place.chips]
        if names:
            self._ledger.record_planned([PlannedChip.of(name, None) for name in names])
        work.finish(lost)

    def _needs_anchor(self) -> bool:
        return self._rules.must_have_scene and self._wants_sentinel2

    def _ask(self, groups: Groups) -> None:
        pace = Pace(
            requests_per_second=self._config.requests_per_second,
            max_in_flight=min(planning_in_flight, self._config.max_in_flight),
            max_attempts=self._config.max_attempts,
            base_wait_s=self._rules.base_wait_s,
            start_in_flight=planning_at_first,
        )
        flow: Flow[_Question] = Flow(
            send=self._send,
            land=self._land,
            split=self._split,
            give_up=self._give_up,
            pace=pace,
            counts=self._counts,
            stop=self._stop,
            on_answer=self._note_answer,
            is_serving=self._service.is_serving,
            quota=self._quota,
            goes_first=True,
        )
        try:
            flow.run(self._to_ask(groups))
        except FlowStopped as stopped:
            raise stopped_error(stopped) from stopped

    # --- one question -------------------------------------------------------------------------------------------------

    def _send(self, question: _Question) -> Answers:
        wanted = [self._wanted(place, asked) for place, asked in question.scenes]
        anchored = [self._anchored(place) for place in question.companions]
        expression = self._questions.expression(wanted, anchored)
        answer = self._service.ask(expression, len(question.items))
        try:
            return read_question(wanted, anchored, self._rules.specs, answer)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            message = f"the planning answer cannot be read: {type(error).__name__}: {error}"
            raise RequestFailed(Failure(kind=Kind.TRANSIENT, message=message)) from error

    def _wanted(self, place: _Place, asked: Round) -> Wanted:
        return Wanted(
            chip=place.grid, level=asked.level, start_ms=asked.start_ms, end_ms=asked.end_ms, wish_ms=asked.wish_ms
        )

    def _anchor_ms(self, place: _Place) -> int:
        chip, anchor = place.chips[0], place.anchor
        return anchor.time_ms if anchor else chip.wish_ms if chip.wish_ms is not None else midsummer(chip.year)

    def _year_of(self, place: _Place) -> int:
        return year_of(self._anchor_ms(place))[0]

    def _anchored(self, place: _Place) -> Anchored:
        anchor, time_ms = place.anchor, self._anchor_ms(place)
        year, month = year_of(time_ms)
        other = ""
        if anchor and self._config.s2 == "both":
            other = "l1c" if anchor.level == "l2a" else "l2a"
        return Anchored(
            chip=place.grid,
            points=tuple((chip.lon, chip.lat) for chip in place.chips),
            dates=tuple(
                scene.time_ms if scene else season_middle(year, season) for season, scene in self._dates(place).items()
            ),
            time_ms=time_ms,
            index=anchor.index if anchor else "",
            year=year_window(year),
            month=(year, month),
            other_level=other,
        )

    def _split(self, question: _Question, failure: Failure) -> Sequence[_Question] | None:
        items = question.items
        # One place may spoil the answer for the others; it is found by halving, as answers that are too large are cut.
        if len(items) < 2 or failure.kind not in (Kind.TOO_LARGE, *_about_one_place, *of_the_service):
            return None
        if failure.kind is Kind.TOO_LARGE:
            self._size.too_much(len(items))
        middle = len(items) // 2
        with self._work.lock:
            self._work.out += 1
        return [_Question(items=part) for part in (items[:middle], items[middle:])]

    def _give_up(self, question: _Question, failure: Failure) -> None:
        with self._work.lock:
            self._work.out -= 1
        of_companions = question.items[0].asked is None
        left = sum(group.left for group in self._work.groups)
        may_be_its_own = of_companions in self._answered or left <= few_places
        its_own = (*_about_one_place, Kind.TOO_LARGE, *(of_the_service if may_be_its_own else ()))
        if len(question.items) == 1 and failure.kind in its_own:
            place = question.items[0].place
            if not place.done:
                for chip in place.chips:
                    self._ledger.record_unplannable(chip.chip_id, str(failure.kind), failure.message)
                self._work.finish([place])
            return
        self.unanswered.append(failure)

    def _note_answer(self, question: _Question, seconds: float) -> None:
        self._size.answered(len(question.items), seconds)
        self._answered.update(item.asked is None for item in question.items)

    def _land(self, answers: Sequence[tuple[_Question, Any]]) -> None:
        for question, answer in answers:
            scenes = dict(zip(question.scenes, answer.scenes, strict=True))
            if scenes and self._journal:
                self._journal.append({self._key(place, asked): found for (place, asked), found in scenes.items()})
            self._record(list(zip(question.companions, answer.companions, strict=True)))
            self._go_on(scenes)
        self._record_lost()
        if self._journal and self._work.journaled > journal_answers:
            self._journal.keep(self._answers_in_use())

    def _go_on(self, scenes: Mapping[tuple[_Place, Round], Sequence[Candidate]]) -> None:
        work = self._work
        with work.lock:
            work.out -= 1
            work.journaled += len(scenes)
            for (place, asked), found in scenes.items():
                place.search.answers[asked] = tuple(found)
                place.pending -= 1
                if not place.pending and not place.done:
                    self._advance(place)

    def _answers_in_use(self) -> _Answers:
        work = self._work
        with work.lock:
            used = {
                self._key(place, asked): found for place in work.open for asked, found in place.search.answers.items()
            }
            work.journaled = 0
            return work.known | used

    def _record(self, answers: Sequence[tuple[_Place, Companions]]) -> None:
        rules = self._rules
        planned = [
            PlannedChip.of(chip.chip_id, self._decision(place, point, found).scenes(rules.specs), rules.origin)
            for place, found in answers
            for point, chip in enumerate(place.chips)
        ]
        if planned:
            self._ledger.record_planned(planned)
        self._work.finish([place for place, _ in answers])

    def _decision(self, place: _Place, point: int, found: Companions) -> Decision:
        return Decision(
            chip=place.chips[point],
            point=point,
            anchor=place.anchor,
            anchored=self._anchored(place),
            found=found,
            max_gap_days=self._config.s1_max_gap_days,
            min_coverage=self._config.min_valid,
            dates=self._dates(place),
        )

    def _key(self, place: _Place, asked: Round) -> str:
        return question_key(
            place.grid.chip_id, asked.level, asked.start_ms, asked.end_ms, asked.wish_ms, self._config.candidates
        )


_about_one_place = (Kind.DETERMINISTIC, Kind.NO_DATA, Kind.SOURCE_CHANGED)


def stopped_error(stopped: FlowStopped) -> RemoteError:
    """What the user is told when a run can't go on."""
    failure = stopped.failure
    if failure.kind is Kind.AUTH:
        return AuthenticationError(
            f"Earth Engine rejected the login: {failure.message}",
            hint="Log in again with `earthengine authenticate` (or name another project), then run the same command; "
            "nothing landed is lost.",
        )
    if failure.kind is Kind.QUOTA:
        return RemoteError(
            f"the project's own limit of compute is reached: {failure.message}",
            hint="Run the same command again when the limit is renewed (a daily one at midnight Pacific time), or "
            "raise it in the Cloud console; nothing landed is lost.",
        )
    return RemoteError(
        f"Earth Engine has not answered for a while; the last outcome was {failure.kind}: {failure.message}",
        hint="Run the same command again later; nothing landed is lost.",
    )
