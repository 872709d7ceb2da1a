"""The ledger: states and counts agree whatever happens, rows are given once, shards become final exactly once."""

from __future__ import annotations

import sqlite3
from collections import Counter

import numpy as np
import pytest
from fakes.plans import fix_everything, load, plan_row, planned, scenes, settle, with_rows
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from m3etl.errors import DamagedError, InputError
from m3etl.io.ledger import ChipState, Chosen, LandedChip, Ledger, PlannedChip, open_ledger
from m3etl.io.lots import PlanRow, form_lots, open_lots
from m3etl.io.segments import Place
from m3etl.spec.budget import Sample
from m3etl.spec.jobs import ArrayStatus

shard_chips = 4


def landed(chip_id: str, offset: int = 0) -> LandedChip:
    place = Place(segment=3, offset=offset, length=10)
    return LandedChip(chip_id=chip_id, place=place, statuses={"x": ArrayStatus.NO_SCENE}, valid={"x": 0.5})


def rows(ledger: Ledger) -> list[tuple[str, int]]:
    found = ledger.file.all("SELECT chip_id, row FROM chips WHERE row IS NOT NULL ORDER BY row")
    return [(name, row) for name, row in found]


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def test_decisions_survive_reopening(tmp_path):
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    load(ledger, [plan_row("a", 7, lon=12.5), plan_row("b", 8)])
    ledger.record_planned([planned("a"), PlannedChip(chip_id="b", document=None)])
    fix_everything(ledger, shard_chips=shard_chips)
    ledger.close()
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    record = ledger.open_rows(-1)[0]
    assert record.scenes == scenes("a") == ledger.scenes_of("a")
    assert (record.row, record.generation, record.origin) == (0, 0, "planet")
    assert (record.lon, record.lat, record.split) == (12.5, 0.0, "train")
    assert ledger.states(["a", "b", "c"]) == {"a": ChipState.PLANNED, "b": ChipState.UNUSABLE}
    ledger.close()


def test_the_first_decision_about_a_chip_stands(ledger):
    ledger.record_planned([planned("a")])
    ledger.record_planned([PlannedChip(chip_id="a", document=None)])
    assert ledger.states(["a"]) == {"a": ChipState.PLANNED}


def test_a_shard_is_ready_when_its_last_chip_is_final(ledger):
    with_rows(ledger, "abcde", shard_chips=shard_chips)
    assert ledger.record_landed([landed("a"), landed("b", 10)], shard_chips=shard_chips) == []
    assert ledger.record_failed("d", "transient", "no luck", shard_chips=shard_chips) == []
    assert ledger.record_landed([landed("c")], shard_chips=shard_chips) == [0]
    assert ledger.segments_in_use() == {3}
    ledger.record_sealed(0, shard_chips=shard_chips)
    assert ledger.ready_shards() == []
    assert ledger.counts() == {"sealed": 3, "failed": 1, "planned": 1}
    assert ledger.segments_in_use() == set()
    assert ledger.failures() == [("transient", "no luck", 1)]


def test_landing_twice_is_refused(ledger):
    with_rows(ledger, "a", shard_chips=shard_chips)
    ledger.record_landed([landed("a")], shard_chips=shard_chips)
    with pytest.raises(DamagedError, match="not expected"):
        ledger.record_landed([landed("a")], shard_chips=shard_chips)
    assert ledger.counts() == {"landed": 1}


def test_a_failed_chip_of_a_sealed_shard_gets_a_row_in_a_later_generation(ledger):
    with_rows(ledger, "ab", shard_chips=shard_chips)
    ledger.record_landed([landed("a")], shard_chips=shard_chips)
    ledger.record_failed("b", "network", "gone", shard_chips=shard_chips)
    ledger.record_sealed(0, shard_chips=shard_chips)
    assert ledger.reopen_failed(shard_chips=shard_chips, leave_sealed=True) == (0, 1)
    assert ledger.reopen_failed(shard_chips=shard_chips) == (1, 0)
    assert ledger.superseded_rows(1, shard_chips=shard_chips) == []
    fix_everything(ledger, shard_chips=shard_chips)
    assert rows(ledger) == [("a", 0), ("b", 4)]
    assert ledger.superseded_rows(1, shard_chips=shard_chips) == [1]
    assert [(record.chip_id, record.row, record.state) for record in ledger.old_rows(0, shard_chips=shard_chips)] == [
        ("b", 1, ChipState.FAILED)
    ]


def test_a_reserve_that_was_used_and_failed_gets_another_row_too(ledger):
    load(ledger, [plan_row("a", 0), plan_row("r", 4, reserve=True)])
    ledger.record_planned([PlannedChip(chip_id="a", document=None), planned("r")])
    fix_everything(ledger, shard_chips=shard_chips)
    assert rows(ledger) == [("r", 0)]
    ledger.record_failed("r", "network", "gone", shard_chips=shard_chips)
    ledger.record_sealed(0, shard_chips=shard_chips)
    ledger.reopen_failed(shard_chips=shard_chips)
    fix_everything(ledger, shard_chips=shard_chips)
    assert rows(ledger) == [("r", 4)]


def test_a_failed_chip_of_an_open_shard_keeps_its_row(ledger):
    with_rows(ledger, "ab", shard_chips=shard_chips)
    ledger.record_failed("b", "network", "gone", shard_chips=shard_chips)
    ledger.reopen_failed(shard_chips=shard_chips)
    assert ledger.shard(0).final == 0
    assert [record.row for record in ledger.open_rows(-1)] == [0, 1]


def test_a_chip_that_could_not_be_planned_is_planned_anew_on_request(ledger):
    load(ledger, [plan_row("a", 1), plan_row("r", 2, reserve=True)])
    ledger.record_unplannable("a", "deterministic", "bad geometry")
    ledger.record_unplannable("r", "deterministic", "bad geometry")
    assert ledger.counts() == {"failed": 2}
    ledger.reopen_failed(shard_chips=shard_chips)
    assert ledger.counts() == {"waiting": 1, "reserve": 1}


def test_only_failures_of_one_kind_reason_or_place_are_taken_up(ledger):
    load(ledger, [plan_row(name, number, lon=number) for number, name in enumerate("abcd")])
    fix_everything(ledger, shard_chips=shard_chips)
    for name, kind in zip("abc", ("network", "network", "wrong"), strict=True):
        ledger.record_failed(name, kind, f"Reason of {kind}", shard_chips=shard_chips)
    ledger.chosen = Chosen(only="reason of wrong")
    assert ledger.reopen_failed(shard_chips=shard_chips) == (1, 0)
    assert [record.chip_id for record in ledger.open_rows(-1)] == ["c"], "d was open before and is not meant"
    ledger.chosen = Chosen(only="network", inside=lambda lon, lat: np.asarray(lon) > 0.5)
    assert ledger.reopen_failed(shard_chips=shard_chips) == (1, 0)
    assert ledger.open_count() == 1
    assert [(record.chip_id, record.kind) for record in ledger.open_rows(-1)] == [("b", "network")]
    ledger.record_landed([landed("b")], shard_chips=shard_chips)
    assert ledger.open_rows(-1) == []


def test_open_chips_come_in_pieces_whatever_is_chosen(ledger):
    load(ledger, [plan_row(f"{number:04d}", number, lon=number % 10) for number in range(3000)])
    fix_everything(ledger, shard_chips=1024, lot_chips=3000)
    ledger.chosen = Chosen(inside=lambda lon, lat: np.asarray(lon) == 3)
    assert ledger.open_count() == 300
    found, after = [], -1
    while records := ledger.open_rows(after, 70):
        assert len(records) <= 70
        found += [record.chip_id for record in records]
        after = records[-1].row
    assert found == [f"{number:04d}" for number in range(3, 3000, 10)]


def test_rows_do_not_hang_on_what_was_fetched_before_they_were_given(tmp_path):
    fixed = []
    for early, ready in {"": [], "ac": [], "bde": [1], "abcde": [0, 1]}.items():
        ledger = open_ledger(tmp_path / f"{early}.sqlite")
        load(ledger, [plan_row(name, number, reserve=name == "r") for number, name in enumerate("abrcde")])
        ledger.record_planned(planned(name) for name in "abcde")
        for name in early:
            if name == "e":
                ledger.record_failed(name, "network", "gone", shard_chips=shard_chips)
            else:
                assert ledger.record_landed([landed(name)], shard_chips=shard_chips) == []
        assert {record.chip_id for record in ledger.open_chips("abcde")} == set("abcde") - set(early)
        fix_everything(ledger, shard_chips=shard_chips)
        fixed.append(rows(ledger))
        assert ledger.open_count() == 5 - len(early)
        assert ledger.ready_shards() == ready
        assert sum(ledger.shard(shard).final for shard in (0, 1)) == len(early)
        ledger.close()
    assert fixed[0] == [(name, row) for row, name in enumerate("abcde")]
    assert all(found == fixed[0] for found in fixed)


def test_a_run_that_is_broken_off_between_lots_goes_on_with_the_same_ones(ledger):
    plan = [plan_row(f"{number:02d}", number, reserve=number % 4 == 0) for number in range(16)]
    load(ledger, plan)
    options = {"lot_chips": 4, "shard_chips": shard_chips, "wall_to_wall": False}
    assert form_lots(ledger, **options) == 3
    first, *others = open_lots(ledger)
    settle(ledger, first, shard_chips)
    assert form_lots(ledger, **options) == 2
    assert open_lots(ledger) == others, "the reserves that the first did not need are not theirs"
    load(ledger, [*plan, plan_row("new", 2)], identity=2)
    assert form_lots(ledger, **options) == 3, "another plan, other lots"
    assert open_lots(ledger)[0].draw_from == 0


def test_decisions_that_no_row_uses_can_be_forgotten(ledger):
    with_rows(ledger, "ab", shard_chips=shard_chips)
    load(ledger, [*(plan_row(name, number) for number, name in enumerate("abcdef")), plan_row("r", 9, reserve=True)])
    ledger.record_planned(planned(name) for name in "cefr")
    ledger.record_planned([PlannedChip(chip_id="d", document=None)])
    ledger.record_landed([landed("e")], shard_chips=shard_chips)
    ledger.record_failed("f", "network", "gone", shard_chips=shard_chips)
    ledger.forget_unused_decisions()
    assert ledger.counts() == {"planned": 2, "waiting": 3, "unusable": 1, "reserve": 1}
    assert ledger.segments_in_use() == set()
    assert ledger.scenes_of("c") is None
    assert ledger.scenes_of("a") == scenes("a")


def test_no_ledger_and_other_versions_are_told_apart(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database, but long enough to look at" * 50)
    with pytest.raises(DamagedError, match="damaged"):
        open_ledger(path)
    path.unlink()
    open_ledger(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '\"99\"' WHERE key = 'format_version'")
    connection.close()
    with pytest.raises(DamagedError, match="format 99"):
        open_ledger(path)


def test_reading_waits_for_nobody(tmp_path):
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    load(ledger, [plan_row("a", 1)])
    with ledger.file.transaction() as connection:
        connection.execute("DELETE FROM chips")
        reader = open_ledger(tmp_path / "ledger.sqlite", to_read=True)
        assert reader.counts() == {"waiting": 1}
        reader.close()
    reader = open_ledger(tmp_path / "ledger.sqlite", to_read=True)
    with pytest.raises(InputError, match="readonly"):
        reader.write_meta("x", 1)
    reader.close()
    ledger.close()


def test_a_full_disk_is_told_from_damage_and_the_ledger_goes_on(ledger):
    ledger.record_planned([planned("a")])
    (pages,) = ledger.file.one("PRAGMA page_count")
    ledger.file.all(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match="full") as caught:
        ledger.write_meta("large", "x" * 1_000_000)
    assert "nothing landed is lost" in caught.value.hint
    ledger.file.all("PRAGMA max_page_count = 100000")
    ledger.record_planned([planned("b")])
    assert set(ledger.states(["a", "b"])) == {"a", "b"}


def test_a_directory_that_cannot_be_written_is_said_clearly(tmp_path):
    with pytest.raises(InputError, match="unable to open"):
        open_ledger(tmp_path / "absent" / "ledger.sqlite")


def test_profiles_are_kept_with_their_totals(ledger):
    samples = [Sample(lane="scenes", units=50.0, eecu_s=1.25), Sample(lane="pixels", units=2e6, eecu_s=0.5)]
    ledger.record_profiles(samples, {"units scenes": 50.0})
    ledger.record_profiles(samples[:1], {"units scenes": 50.0})
    assert ledger.profiles() == [*samples, samples[0]]
    assert ledger.totals() == {"units scenes": 100.0}


class LedgerMachine(RuleBasedStateMachine):
    """Every order of events, against a plan that grows: no chip is lost, counts are the truth, rows are unique and
    dense in their generation, a shard is sealed once, and what is sealed stays where it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = open_ledger(":memory:")  # type: ignore[arg-type]
        self.plan: list[PlanRow] = []
        self.sealed: dict[str, int] = {}
        self.sealed_shards: set[int] = set()

    def teardown(self) -> None:
        self.ledger.close()

    def chips(self, *states: ChipState, condition: str = "true") -> list[str]:
        marks = ", ".join("?" * len(states))
        found = self.ledger.file.all(f"SELECT chip_id FROM chips WHERE state IN ({marks}) AND {condition}", states)
        return sorted(name for (name,) in found)

    @rule(count=st.integers(1, 9), reserves=st.integers(0, 3), seed=st.integers(0, 1000))
    def sample(self, count: int, reserves: int, seed: int) -> None:
        start = len(self.plan)
        self.plan += [
            plan_row(f"chip {number}", (number * 7919 + seed) % 1009, reserve=number >= start + count)
            for number in range(start, start + count + reserves)
        ]
        load(self.ledger, self.plan, identity=len(self.plan))

    @precondition(lambda self: self.chips(ChipState.WAITING, ChipState.RESERVE))
    @rule(data=st.data(), outcome=st.sampled_from(["planned", "unusable", "unplannable"]))
    def decide(self, data: st.DataObject, outcome: str) -> None:
        name = data.draw(st.sampled_from(self.chips(ChipState.WAITING, ChipState.RESERVE)))
        if outcome == "unplannable":
            self.ledger.record_unplannable(name, "deterministic", "bad geometry")
        else:
            decided = planned(name) if outcome == "planned" else PlannedChip(chip_id=name, document=None)
            self.ledger.record_planned([decided])

    @precondition(lambda self: self.plan)
    @rule(lot_chips=st.sampled_from([4, 8]))
    def fix(self, lot_chips: int) -> None:
        fix_everything(self.ledger, shard_chips=shard_chips, lot_chips=lot_chips)
        states = (ChipState.PLANNED, ChipState.LANDED)
        assert not self.chips(*states, condition="row IS NULL AND reserve <> 1"), "all that may have a row has"

    @precondition(lambda self: self.chips(ChipState.PLANNED, condition="row IS NULL AND reserve <> 1"))
    @rule(data=st.data(), lands=st.booleans())
    def finish_before_the_row_is_given(self, data: st.DataObject, lands: bool) -> None:
        names = self.chips(ChipState.PLANNED, condition="row IS NULL AND reserve <> 1")
        name = data.draw(st.sampled_from(names))
        if lands:
            self.ledger.record_landed([landed(name)], shard_chips=shard_chips)
        else:
            self.ledger.record_failed(name, "network", "gone", shard_chips=shard_chips)

    @precondition(lambda self: self.ledger.open_count())
    @rule(data=st.data())
    def finish_a_shard(self, data: st.DataObject) -> None:
        shard = self.ledger.open_rows(-1)[0].row // shard_chips
        records = self.ledger.shard_records(shard, shard_chips=shard_chips)
        open_chips = [record.chip_id for record in records if record.state is ChipState.PLANNED]
        for name in open_chips:
            if data.draw(st.booleans()):
                self.ledger.record_failed(name, "network", "gone", shard_chips=shard_chips)
            else:
                self.ledger.record_landed([landed(name)], shard_chips=shard_chips)
        while shard in self.ledger.ready_shards():
            self.seal()

    @precondition(lambda self: self.ledger.open_count())
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        open_chips = self.chips(ChipState.PLANNED, condition="row IS NOT NULL")
        names = data.draw(st.lists(st.sampled_from(open_chips), unique=True, min_size=1))
        self.ledger.record_landed([landed(name) for name in names], shard_chips=shard_chips)

    @precondition(lambda self: self.ledger.open_count())
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.chips(ChipState.PLANNED, condition="row IS NOT NULL")))
        self.ledger.record_failed(name, "network", "gone", shard_chips=shard_chips)

    @precondition(lambda self: self.ledger.ready_shards())
    @rule()
    def seal(self) -> None:
        shard = self.ledger.ready_shards()[0]
        assert shard not in self.sealed_shards, "a shard is sealed once"
        self.sealed_shards.add(shard)
        self.ledger.record_sealed(shard, shard_chips=shard_chips)
        records = self.ledger.shard_records(shard, shard_chips=shard_chips)
        self.sealed |= {item.chip_id: item.row for item in records if item.state is ChipState.SEALED}

    @rule(only=st.sampled_from(["", "network", "geometry"]))
    def retry(self, only: str) -> None:
        self.ledger.chosen = Chosen(only=only)
        self.ledger.reopen_failed(shard_chips=shard_chips)
        self.ledger.chosen = Chosen()

    @invariant()
    def no_chip_is_lost(self) -> None:
        known = self.ledger.file.all("SELECT chip_id FROM chips")
        assert {row.chip_id for row in self.plan} == {name for (name,) in known}

    @invariant()
    def counts_are_the_truth(self) -> None:
        states = Counter(self.ledger.states([row.chip_id for row in self.plan]).values())
        assert self.ledger.counts() == {str(state): chips for state, chips in states.items()}

    @invariant()
    def rows_are_dense(self) -> None:
        found = self.ledger.file.all("SELECT row, generation FROM chips WHERE row IS NOT NULL")
        found += self.ledger.file.all(
            "SELECT old_rows.row, shards.generation FROM old_rows JOIN shards ON shard = row / ?", (shard_chips,)
        )
        rows = dict(found)
        assert len(rows) == len(found)
        for generation, first_row, size, chips in self.ledger.file.all(
            "SELECT generation, first_row, size, chips FROM generations WHERE chips IS NOT NULL"
        ):
            mine = sorted(row for row, number in rows.items() if number == generation)
            assert mine == list(range(first_row, first_row + chips))
            assert first_row % shard_chips == 0
            assert chips <= size

    @invariant()
    def shards_agree(self) -> None:
        for shard, chips, final, sealed in self.ledger.file.all("SELECT shard, chips, final, sealed FROM shards"):
            assert bool(sealed) == (shard in self.sealed_shards)
            if sealed:
                continue
            records = self.ledger.shard_records(shard, shard_chips=shard_chips)
            assert len(records) == chips > 0
            assert final == sum(record.state is not ChipState.PLANNED for record in records)

    @invariant()
    def sealed_chips_stay(self) -> None:
        now = dict(rows(self.ledger))
        assert self.sealed.items() <= now.items()
        assert set(self.sealed) == set(self.chips(ChipState.SEALED))


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
