"""Planning in batches: few requests, the decisions of asking one by one, and nothing asked twice after a kill."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from fakes.earth import FakeEarth, fraction, install

from m3etl.campaign import ExportConfig
from m3etl.errors import AuthenticationError
from m3etl.io.flow import FlowCounts
from m3etl.io.journal import AnswerJournal
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.planning import Wanted
from m3etl.spec.catalog import select_arrays
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import ArrayStatus
from m3etl.stages import planning
from m3etl.stages.asking import MeteredSession, PlanningRules
from m3etl.stages.decisions import PlanChip
from m3etl.stages.planning import ScenePlanner

specs = tuple(spec for spec in select_arrays() if spec.name != "sentinel2_l1c")


@pytest.fixture(autouse=True)
def fake_earth(monkeypatch):
    install(monkeypatch)


class Book:
    """What a ledger would be told."""

    def __init__(self) -> None:
        self.scenes = {}
        self.lost = {}

    def record_planned(self, chips) -> None:
        for chip in chips:
            assert chip.chip_id not in self.scenes, "decided twice"
            self.scenes[chip.chip_id] = chip.scenes

    def record_unplannable(self, chip_id, kind, reason) -> None:
        self.lost[chip_id] = kind


def chips_of(count: int, *, wide: int = 1000) -> list[PlanChip]:
    found = []
    for number in range(count):
        column, row = 1000 + number % wide, 3000 + number // wide
        grid = ChipGrid(
            chip_id=f"32632-0160-{column:04d}-{row:04d}",
            epsg=32632,
            xmin=column * 160.0,
            ymax=(row + 1) * 160.0,
            chip_px=16,
        )
        found.append(
            PlanChip(
                grid=grid,
                lon=9.0 + number / 100,
                lat=45.0,
                year=2017 + number % 4,
                biome=1,
                ecoregion=2,
                wish_ms=None,
            )
        )
    return found


class Grouped:
    """Groups of chips. instead: further chips of each group, to be asked about when it is decided."""

    def __init__(self, *groups, instead=(), feed=None):
        self.groups, self.instead, self.feed = list(groups), list(instead), feed
        self.settled = []

    def waiting(self):
        return None if self.feed is None else self.feed.waiting

    def next_group(self):
        return self.groups.pop(0) if self.groups else None

    def settle(self):
        further = self.instead.pop(0) if self.instead else ()
        self.settled.append(len(further))
        return further

    def recorded(self, chips):
        if self.feed is not None:
            self.feed.offer([item.document for item in chips if item.document is not None])


def plan(chips, earth, *, book=None, groups=None, journal=None, must=True, block_chips=1, **config):
    """The book and the counts of planning these chips, or groups of chips."""
    book, counts = book or Book(), FlowCounts()
    rules = PlanningRules(
        specs=tuple(specs),
        config=ExportConfig(**{"requests_per_second": 10_000.0, "max_attempts": 3, **config}),
        seed=4,
        years=(2017, 2020),
        must_have_scene=must,
        journal=journal,
        block_chips=block_chips,
        base_wait_s=0.001,
    )
    planner = ScenePlanner(
        rules,
        service=MeteredSession(earth, rules),
        ledger=book,
        counts=counts,
        stop=threading.Event(),
    )
    planner.plan(groups or Grouped([chip for chip in chips if chip.chip_id not in book.scenes]), len(chips))
    return book, counts


def test_a_thousand_chips_take_few_requests():
    book, counts = plan(chips_of(1000), FakeEarth(lost=0.1))
    assert counts.requests <= 50
    assert len(book.scenes) == 1000
    assert 50 < sum(scenes is None for scenes in book.scenes.values()) < 150


def test_a_hundred_chips_take_very_few():
    _, counts = plan(chips_of(100), FakeEarth(lost=0.1))
    assert counts.requests <= 6


def test_decisions_do_not_hang_on_the_size_of_batches():
    chips = chips_of(60)
    together, few = plan(chips, FakeEarth(lost=0.2), must=False)
    alone, many = plan(chips, FakeEarth(lost=0.2), must=False, plan_batch=1)
    assert together.scenes == alone.scenes
    assert few.requests < 10 < many.requests


def test_questions_grow_while_answers_come_quickly_and_shrink_when_they_are_too_much(monkeypatch):
    sizes = []

    def trouble(kind, question, number):
        sizes.append(len(question.items))
        if len(question.items) > 60:
            return Failure(kind=Kind.TOO_LARGE, message="Computation timed out.", status=400)
        return None

    chips = chips_of(800)
    book, _ = plan(chips, FakeEarth(trouble=trouble), plan_batch=40)
    assert len(book.scenes) == 800
    refused = [number for number, size in enumerate(sizes) if size > 60]
    assert refused, "they grow beyond the start"
    assert max(sizes[refused[-1] + 1 :]) <= 60
    assert len(refused) <= planning.planning_in_flight, "what was too much is hardly asked again"
    sizes.clear()
    monkeypatch.setattr(planning, "most_answer_s", 0.0)
    plan(chips, FakeEarth(trouble=trouble), plan_batch=40)
    assert max(sizes) == 40, "slow answers keep questions small"


def test_one_question_asks_for_companions_and_other_years_at_once():
    seen = []

    def listen(kind, question, number):
        seen.append((len(question.wanted), len(question.anchored)))

    plan(chips_of(40), FakeEarth(lost=0.5, trouble=listen))
    assert any(wanted and anchored for wanted, anchored in seen)


def questions_of(earth_questions) -> Counter:
    return Counter(
        (item.chip.chip_id, item.level, item.start_ms)
        if isinstance(item, Wanted)
        else (item.chip.chip_id, "companions")
        for question in earth_questions
        for item in question.items
    )


@pytest.mark.parametrize("last", range(9))
def test_a_plan_broken_off_repeats_only_what_was_in_flight(tmp_path, last):
    answered, lost = [], []

    def trouble(kind, question, number):
        if len(answered) == last:
            lost.append(question)
            return Failure(kind=Kind.AUTH, message="expired", status=401)
        answered.append(question)
        return None

    chips, journal = chips_of(70), tmp_path / "planning.jsonl"
    limits = {"plan_batch": 10, "max_in_flight": 1, "must": False, "journal": journal}
    book = Book()
    with pytest.raises(AuthenticationError):
        plan(chips, FakeEarth(lost=0.3, trouble=trouble), book=book, **limits)
    plan(
        chips,
        FakeEarth(lost=0.3, trouble=lambda kind, question, number: answered.append(question)),
        book=book,
        **limits,
    )
    assert max(questions_of(answered).values()) == 1
    assert {chip_id for chip_id, *_ in questions_of(lost)} <= book.scenes.keys()
    assert book.scenes == plan(chips, FakeEarth(lost=0.3), must=False)[0].scenes
    assert not journal.exists()


def test_a_block_has_one_anchor_and_every_chip_its_own_place():
    earth = FakeEarth(lost=0.2)
    book, counts = plan(chips_of(256, wide=16), earth, must=False, block_chips=4)
    assert len(book.scenes) == 256
    assert counts.requests <= 6
    blocks = {}
    for chip_id, scenes in book.scenes.items():
        column, row = (int(part) for part in chip_id.split("-")[2:])
        blocks.setdefault((column // 4, row // 4), []).append(scenes)
    assert {len(members) for members in blocks.values()} == {16}
    for members in blocks.values():
        assert len({scenes.anchor_id for scenes in members}) == 1
        assert len({scenes.arrays["dynamic_world"].scene_ids for scenes in members}) == 1
        assert len({scenes.arrays["geolocation"].values for scenes in members}) == len(members)
        assert {scenes.arrays["sentinel2_l2a"].valid_fraction for scenes in members} <= {1.0, None}
    assert len({members[0].anchor_id for members in blocks.values()}) == len(blocks)


def test_a_block_planned_in_pieces_is_planned_the_same():
    chips = chips_of(64, wide=8)
    whole, _ = plan(chips, FakeEarth(), must=False, block_chips=8)
    pieces = Book()
    for start in range(0, 64, 9):
        plan(chips[: start + 9], FakeEarth(), book=pieces, must=False, block_chips=8)
    assert pieces.scenes == whole.scenes


def test_the_other_level_is_the_anchors_own_acquisition(monkeypatch):
    earth = FakeEarth()
    plain = FakeEarth._companions

    def companions(self, anchored, specs):
        answer = plain(self, anchored, specs)
        twin = {
            **self._level(Wanted(chip=anchored.chip, level="l1c", start_ms=0, end_ms=10), "l1c")[0],
            "index": anchored.index if fraction(anchored.chip.chip_id) < 0.5 else "another",
            "time": anchored.time_ms,
        }
        return {**answer, f"other_{anchored.other_level}": [twin]}

    monkeypatch.setattr(FakeEarth, "_companions", companions)
    monkeypatch.setitem(globals(), "specs", select_arrays())
    chips = [replace(chip, year=2020) for chip in chips_of(20)]
    book, _ = plan(chips, earth, s2="both")
    for chip_id, scenes in book.scenes.items():
        both = [scenes.arrays[f"sentinel2_{level}"] for level in ("l2a", "l1c")]
        same = fraction(chip_id) < 0.5
        assert sum(item.status is ArrayStatus.OK for item in both) == (2 if same else 1)
        if same:
            assert both[0].time == both[1].time
            assert both[0].cloud_fraction != both[1].cloud_fraction, "each level has its own"


def test_a_group_is_asked_about_while_the_last_answers_about_another_are_due():
    chips = chips_of(80)
    first = {chip.chip_id for chip in chips[:40]}
    second_is_asked = threading.Event()

    def trouble(kind, question, number):
        asked = {item.chip.chip_id for item in question.items}
        if asked - first:
            second_is_asked.set()
        if question.anchored and asked & first:
            assert second_is_asked.wait(10), "nothing else was asked"

    groups = Grouped(chips[:40], chips[40:])
    book, _ = plan((), FakeEarth(trouble=trouble), groups=groups, plan_batch=20)
    assert book.scenes == plan(chips, FakeEarth())[0].scenes
    assert groups.settled == [0, 0]


def test_groups_are_settled_in_order_and_what_stands_in_comes_first():
    chips = chips_of(160)
    slow, instead = chips[0].chip_id, {chip.chip_id for chip in chips[120:]}
    order = []

    class Watched(Grouped):
        def settle(self):
            order.append(sorted(book.scenes))
            return super().settle()

    def trouble(kind, question, number):
        if question.anchored and slow in {item.chip.chip_id for item in question.items}:
            time.sleep(0.5)

    book = Book()
    groups = Watched(
        *(chips[start : start + 20] for start in range(0, 120, 20)), instead=[chips[120:130], (), chips[130:]]
    )
    plan((), FakeEarth(trouble=trouble), groups=groups, book=book, plan_batch=8)
    assert groups.settled == [10, 0, 30, 0, 0, 0, 0, 0]
    assert {chip.chip_id for chip in chips[:20]} <= set(order[0])
    assert len(order[0]) <= 20 * planning.groups_at_once, "no more groups than these are open"
    assert instead <= set(order[-1])
    assert book.scenes == plan(chips, FakeEarth())[0].scenes


def test_groups_without_any_chip_are_settled():
    groups = Grouped((), chips_of(3), (), ())
    book, _ = plan((), FakeEarth(), groups=groups)
    assert len(book.scenes) == 3
    assert groups.settled == [0, 0, 0, 0]


def sizes_asked(chips, *, waiting, seconds_per_item=0.0, **config):
    """Sizes of the questions about so many chips, in order, when so many decided ones always wait to be fetched."""
    sizes = []

    class Waited(Grouped):
        def waiting(self):
            return waiting

    def trouble(kind, question, number):
        sizes.append(len(question.items))
        time.sleep(seconds_per_item * len(question.items))

    found = chips_of(chips)
    groups = Waited(found)
    book, counts = plan(found, FakeEarth(trouble=trouble), groups=groups, **config)
    assert len(book.scenes) == chips
    return sizes, counts


def test_the_first_questions_are_small_and_each_larger_than_the_one_before():
    sizes, counts = sizes_asked(1500, waiting=0)
    assert sizes[:5] == [8, 10, 12, 14, 16]
    assert max(sizes) >= 50
    assert counts.requests <= 75, "1.05 requests a chip"


def test_slow_questions_are_short_while_chips_are_waited_for(monkeypatch):
    monkeypatch.setattr(planning, "least_answer_s", 0.05)
    slow = {"seconds_per_item": 0.002, "plan_batch": 20, "requests_per_second": 100.0}
    hurried, _ = sizes_asked(290, waiting=0, **slow)
    ahead, _ = sizes_asked(290, waiting=1000, **slow)
    assert max(hurried[4:]) < 40 < max(ahead), "0.05 s an answer, or up to 5 s"


def test_few_questions_are_asked_together_when_enough_is_decided():
    slow = {"seconds_per_item": 0.005, "plan_batch": 8}
    _, hurried = sizes_asked(800, waiting=0, requests_per_second=500.0, **slow)
    _, ahead = sizes_asked(800, waiting=1500, requests_per_second=500.0, **slow)
    assert ahead.peak_in_flight <= planning.planning_ahead < hurried.peak_in_flight


def test_a_journal_keeps_only_what_may_still_be_asked(tmp_path, monkeypatch):
    """However often a run is broken off."""
    monkeypatch.setattr(planning, "journal_answers", 50)
    chips, journal, kept = chips_of(1500), tmp_path / "planning.jsonl", []
    book = Book()
    while len(book.scenes) < 1300:
        asked = []

        def trouble(kind, question, number, asked=asked):
            asked.append(question)
            return Failure(kind=Kind.AUTH, message="expired", status=401) if len(asked) > 12 else None

        with pytest.raises(AuthenticationError):
            plan(chips, FakeEarth(trouble=trouble), book=book, journal=journal, plan_batch=8, max_in_flight=4)
        kept.append(len(AnswerJournal(journal).read()))
    assert len(kept) >= 4
    assert max(kept) <= 192 + 2 * 50, "open places, and what has come since old answers were dropped"


def test_places_of_one_name_lose_no_answer_of_a_run_broken_off(tmp_path):
    """A block is two places where its chips wish for two moments."""
    moment = 1_500_000_000_000
    chips = [
        replace(chip, wish_ms=moment + 40 * 86_400_000 * (number % 2))
        for number, chip in enumerate(chips_of(16, wide=4))
    ]
    asked, journal = [], tmp_path / "planning.jsonl"

    def trouble(kind, question, number):
        if question.anchored:
            return Failure(kind=Kind.AUTH, message="expired", status=401)
        asked.append(question)
        return None

    with pytest.raises(AuthenticationError):
        plan(chips, FakeEarth(trouble=trouble), block_chips=4, journal=journal, max_in_flight=1)
    earth = FakeEarth(trouble=lambda kind, question, number: asked.append(question))
    plan(chips, earth, block_chips=4, journal=journal)
    times = [count for (_, about, *_), count in questions_of(asked).items() if about != "companions"]
    assert times
    assert max(times) == 1


def test_the_last_few_that_fail_alone_are_given_up_each_for_itself():
    chips = chips_of(5)

    def trouble(kind, question, number):
        return Failure(kind=Kind.TRANSIENT, message="odd", status=500)

    groups = Grouped(chips[:2], instead=[chips[2:4], chips[4:]])
    book, _ = plan((), FakeEarth(trouble=trouble), groups=groups)
    assert set(book.lost) == {chip.chip_id for chip in chips}
