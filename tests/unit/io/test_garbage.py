"""Searches for cycles during an export."""

from __future__ import annotations

import gc
import weakref

import pytest

from m3etl.io.garbage import new_objects, rare_searches


class Cyclic:
    def __init__(self):
        self.itself = self


def test_cycles_are_still_found():
    with rare_searches():
        found = weakref.ref(Cyclic())
        assert found() is not None
        kept = [[] for _ in range(2 * new_objects)]
        assert found() is None
    del kept


def test_everything_is_as_before_afterwards():
    before = gc.get_threshold()

    @rare_searches()
    def broken():
        assert gc.get_threshold()[0] == new_objects
        assert gc.get_freeze_count() > 1000
        raise OSError("anything")

    with pytest.raises(OSError, match="anything"):
        broken()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_who_searches_never_is_left_alone():
    before = gc.get_threshold()
    try:
        gc.set_threshold(0)
        with rare_searches():
            assert gc.get_threshold()[0] == 0
        gc.set_threshold(50_000)
        with rare_searches():
            assert gc.get_threshold()[0] == 50_000
    finally:
        gc.set_threshold(*before)
