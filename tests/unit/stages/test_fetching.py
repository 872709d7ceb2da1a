"""What is said while nothing moves."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from fakes.earth import FakeEarth, install

from m3etl.io.outcomes import Failure, Kind
from m3etl.stages.fetching import Pauses
from m3etl.stages.summary import SilentProgress
from tests.unit.stages.test_export import export, make_campaign, make_plan

reason = "Quota exceeded for quota metric 'x' and limit 'x per minute'"


class Said(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def refused(pause_s: float) -> Failure:
    return Failure(kind=Kind.RATE, message=reason, status=429, retry_after_s=pause_s)


def test_a_long_pause_is_said_once_and_the_next_one_again():
    said, clock = Said(), SimpleNamespace(now=0.0)
    pauses = Pauses(said, lambda: clock.now)
    for clock.now, pause_s in ((0.0, 9.9), (1.0, 60.0), (1.2, 60.0), (40.0, 30.0), (69.0, 2.0)):
        pauses.note(pause_s, refused(pause_s))
    assert said.lines == [f"waiting for 60 s (Ctrl-C loses nothing): {reason}"]
    clock.now = 70.0
    pauses.note(12.0, refused(12.0))
    assert len(said.lines) == 2
    assert "waiting for 12 s" in said.lines[1]


@pytest.mark.parametrize("kind", ["plan", "pixels"])
def test_an_export_says_why_nothing_moves(tmp_path, monkeypatch, kind):
    install(monkeypatch)
    first = threading.Lock()
    monkeypatch.setattr("m3etl.stages.fetching.told_pause_s", 0.2)
    earth, said = FakeEarth(), Said()
    earth.trouble = lambda what, *_: refused(0.3) if what == kind and first.acquire(False) else None
    campaign = make_campaign(tmp_path / "c", make_plan(8))
    assert export(campaign, earth, progress=said).failed == 0
    assert [line for line in said.lines if reason in line] == [f"waiting for 0 s (Ctrl-C loses nothing): {reason}"]
