"""Reserves stand in for unusable chips of their ecoregion, then of their biome, whatever the order of discovery."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from m3etl.spec.replacement import ReserveRow, next_to_plan


def chip(name: str, biome: int, ecoregion: int, *, reserve: bool = False) -> ReserveRow:
    return ReserveRow(chip_id=name, biome=biome, ecoregion=ecoregion, reserve=reserve)


plan = [
    chip("a", 0, 1),
    chip("b", 0, 1),
    chip("c", 0, 2),
    chip("r1", 0, 1, reserve=True),
    chip("r2", 0, 2, reserve=True),
    chip("r3", 0, 2, reserve=True),
    chip("other", 5, 9, reserve=True),
]


def test_every_chip_comes_before_any_reserve():
    assert next_to_plan(plan, {}) == ["a", "b", "c"]
    assert next_to_plan(plan, {"a": False, "b": True}) == ["c"]


def test_no_reserve_is_asked_about_without_need():
    assert next_to_plan(plan, {"a": True, "b": True, "c": True}) == []


def test_own_ecoregion_first_then_the_biome():
    known = {"a": False, "b": False, "c": True}
    assert next_to_plan(plan, known) == ["r1"]
    known["r1"] = True
    assert next_to_plan(plan, known) == ["r2"]
    known["r2"] = False
    assert next_to_plan(plan, known) == ["r3"]
    known["r3"] = True
    assert next_to_plan(plan, known) == []


def test_a_biome_never_borrows_from_another():
    known = {"a": False, "b": False, "c": False, "r1": False, "r2": False, "r3": False}
    assert next_to_plan(plan, known) == []


@given(st.data())
def test_the_outcome_does_not_depend_on_interruptions(data):
    count = data.draw(st.integers(1, 30))
    chips = [chip(str(number), number % 2, number % 5, reserve=data.draw(st.booleans())) for number in range(count)]
    fate = {item.chip_id: data.draw(st.booleans()) for item in chips}

    def run(step: int) -> set[str]:
        known: dict[str, bool] = {}
        while True:
            asked = next_to_plan(chips, known)
            if not asked:
                return {name for name in known if known[name]}
            for name in asked[:step]:
                known[name] = fate[name]

    whole, piecemeal = run(count), run(1)
    lost = sum(not item.reserve and not fate[item.chip_id] for item in chips)
    used = [item for item in chips if item.reserve and item.chip_id in piecemeal]
    assert len(used) <= lost
    assert whole == piecemeal
