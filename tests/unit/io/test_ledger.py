"""The ledger: states and counts agree whatever happens, rows are given once, shards become final exactly once."""

from __future__ import annotations

import sqlite3
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from m3etl.errors import DamagedError, InputError
from m3etl.io.ledger import ChipState, LandedChip, PlannedChip, open_ledger
from m3etl.io.segments import Place
from m3etl.spec.budget import Sample
from m3etl.spec.jobs import ArrayScenes, ArrayStatus, ChipScenes

shard_chips = 4


def scenes(chip_id: str) -> ChipScenes:
    array = ArrayScenes(
        status=ArrayStatus.OK, scene_ids=("A/1", "A/2"), time="2020-01-01T00:00:00Z", values=(1.0, None)
    )
    return ChipScenes(
        chip_id=chip_id, year=2020, anchor_id=None, anchor_time="2020-07-01T00:00:00Z", arrays={"x": array}
    )


def planned(chip_id: str) -> PlannedChip:
    return PlannedChip(chip_id=chip_id, scenes=scenes(chip_id), origin="planet")


def landed(chip_id: str, offset: int = 0) -> LandedChip:
    place = Place(segment=3, offset=offset, length=10)
    return LandedChip(chip_id=chip_id, place=place, statuses={"x": ArrayStatus.NO_SCENE}, valid={"x": 0.5})


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def test_decisions_survive_reopening(tmp_path):
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    ledger.record_planned([planned("a"), PlannedChip(chip_id="b", scenes=None)])
    ledger.fix_generation(["a"], shard_chips=shard_chips)
    ledger.close()
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    record = ledger.open_rows(-1)[0]
    assert record.scenes == scenes("a")
    assert (record.row, record.generation, record.origin) == (0, 0, "planet")
    assert ledger.states() == {"a": ChipState.PLANNED, "b": ChipState.UNUSABLE}
    ledger.close()


def test_the_first_decision_about_a_chip_stands(ledger):
    ledger.record_planned([planned("a")])
    ledger.record_planned([PlannedChip(chip_id="a", scenes=None)])
    assert ledger.states() == {"a": ChipState.PLANNED}


def test_generations_start_at_multiples_of_the_shard(ledger):
    ledger.record_planned(planned(name) for name in "abcdefghij")
    assert ledger.fix_generation(list("cab"), shard_chips=shard_chips) == 0
    assert ledger.fix_generation(list("defgh"), shard_chips=shard_chips) == 1
    assert [(name, row) for name, row, _ in ledger.rows()] == [
        *zip("cab", range(3), strict=True),
        *zip("defgh", range(4, 9), strict=True),
    ]
    assert ledger.unfixed() == ["i", "j"]
    assert ledger.row_end() == 9
    assert [ledger.shard(number).chips for number in range(3)] == [3, 4, 1]


def test_a_shard_is_ready_when_its_last_chip_is_final(ledger):
    ledger.record_planned(planned(name) for name in "abcde")
    ledger.fix_generation(list("abcde"), shard_chips=shard_chips)
    assert ledger.record_landed([landed("a"), landed("b", 10)], shard_chips=shard_chips) == []
    assert ledger.record_failed("d", "transient", "no luck", shard_chips=shard_chips) == []
    assert ledger.record_landed([landed("c")], shard_chips=shard_chips) == [0]
    ledger.record_sealed(0, shard_chips=shard_chips)
    assert ledger.ready_shards() == []
    assert ledger.counts() == {"sealed": 3, "failed": 1, "planned": 1}
    assert ledger.segments_in_use() == set()
    assert ledger.failures() == [("transient", "no luck", 1)]


def test_landing_twice_is_refused(ledger):
    ledger.record_planned([planned("a")])
    ledger.fix_generation(["a"], shard_chips=shard_chips)
    ledger.record_landed([landed("a")], shard_chips=shard_chips)
    with pytest.raises(DamagedError, match="not expected"):
        ledger.record_landed([landed("a")], shard_chips=shard_chips)
    assert ledger.counts() == {"landed": 1}


def test_a_failed_chip_of_a_sealed_shard_gets_a_row_in_a_later_generation(ledger):
    ledger.record_planned(planned(name) for name in "ab")
    ledger.fix_generation(["a", "b"], shard_chips=shard_chips)
    ledger.record_landed([landed("a")], shard_chips=shard_chips)
    ledger.record_failed("b", "network", "gone", shard_chips=shard_chips)
    ledger.record_sealed(0, shard_chips=shard_chips)
    assert ledger.reopen_failed(shard_chips=shard_chips) == 1
    assert ledger.unfixed() == ["b"]
    ledger.fix_generation(["b"], shard_chips=shard_chips)
    assert [row for name, row, _ in ledger.rows() if name == "b"] == [4]


def test_a_failed_chip_of_an_open_shard_keeps_its_row(ledger):
    ledger.record_planned(planned(name) for name in "ab")
    ledger.fix_generation(["a", "b"], shard_chips=shard_chips)
    ledger.record_failed("b", "network", "gone", shard_chips=shard_chips)
    ledger.reopen_failed(shard_chips=shard_chips)
    assert ledger.shard(0).final == 0
    assert [record.row for record in ledger.open_rows(-1)] == [0, 1]


def test_a_chip_that_could_not_be_planned_is_planned_anew_on_request(ledger):
    ledger.record_unplannable("a", "deterministic", "bad geometry")
    assert ledger.counts() == {"failed": 1}
    ledger.reopen_failed(shard_chips=shard_chips)
    assert ledger.states() == {}
    assert ledger.counts() == {}


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


def test_a_full_disk_is_told_from_damage_and_the_ledger_goes_on(ledger):
    ledger.record_planned([planned("a")])
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match="full") as caught:
        ledger.write_meta("large", "x" * 1_000_000)
    assert "nothing landed is lost" in caught.value.hint
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    ledger.record_planned([planned("b")])
    assert set(ledger.states()) == {"a", "b"}


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
    """Every order of events: counts equal the chips, final counts equal the final chips, rows are unique and dense."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = open_ledger(":memory:")  # type: ignore[arg-type]
        self.number = 0

    def teardown(self) -> None:
        self.ledger.close()

    def chips(self, state: ChipState, *, with_row: bool = True) -> list[str]:
        rows = {name for name, _, _ in self.ledger.rows()}
        return sorted(
            name for name, found in self.ledger.states().items() if found is state and (name in rows) is with_row
        )

    @rule(count=st.integers(1, 6), usable=st.booleans())
    def plan(self, count: int, usable: bool) -> None:
        names = [f"chip {self.number + item}" for item in range(count)]
        self.number += count
        self.ledger.record_planned(
            planned(name) if usable else PlannedChip(chip_id=name, scenes=None) for name in names
        )

    @precondition(lambda self: self.ledger.unfixed())
    @rule()
    def fix(self) -> None:
        self.ledger.fix_generation(self.ledger.unfixed(), shard_chips=shard_chips)

    @precondition(lambda self: self.ledger.open_count())
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(self.chips(ChipState.PLANNED)), unique=True, min_size=1))
        self.ledger.record_landed([landed(name) for name in names], shard_chips=shard_chips)

    @precondition(lambda self: self.ledger.open_count())
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.chips(ChipState.PLANNED)))
        self.ledger.record_failed(name, "network", "gone", shard_chips=shard_chips)

    @precondition(lambda self: self.ledger.ready_shards())
    @rule()
    def seal(self) -> None:
        self.ledger.record_sealed(self.ledger.ready_shards()[0], shard_chips=shard_chips)

    @rule()
    def retry(self) -> None:
        self.ledger.reopen_failed(shard_chips=shard_chips)

    @invariant()
    def counts_agree(self) -> None:
        states = Counter(str(state) for state in self.ledger.states().values())
        assert self.ledger.counts() == dict(states)

    @invariant()
    def shards_agree(self) -> None:
        shards, _ = self.ledger.shard_counts()
        rows = [row for _, row, _ in self.ledger.rows()]
        assert len(rows) == len(set(rows))
        for number in range(shards):
            shard = self.ledger.shard(number)
            if shard is None or shard.sealed:
                continue
            records = self.ledger.shard_records(number, shard_chips=shard_chips)
            assert len(records) == shard.chips
            assert shard.final == sum(record.state is not ChipState.PLANNED for record in records)

    @invariant()
    def sealed_chips_stay(self) -> None:
        for name in self.chips(ChipState.SEALED):
            assert name in {chip_id for chip_id, _, _ in self.ledger.rows()}


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
