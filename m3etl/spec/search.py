"""The search for a chip's anchor: which questions are asked about Sentinel-2 scenes in which order, and when they are
answered well enough.

A question is a level and a window of time. The first good scene in the order of the questions wins, whichever of them
were asked together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from m3etl.spec.scenes import (
    AnchorRule,
    Candidate,
    choose_anchor,
    choose_nearest,
    day_ms,
    year_order,
    year_window,
)

either_level = "either"  # every level 1C scene, as its level 2A where that exists: an archive without gaps in time
wish_windows_days = (15, 60, 180)  # in the first the scenes nearest to the moment are scored, then the least cloudy
whole_l2a_year = 2019  # level 2A begins in December 2018 outside Europe, so before it is no sample of a year


@dataclass(frozen=True, slots=True)
class Round:
    """One question: a level, a window of time [start, end) in ms, and the moment to which the nearest scenes are
    scored.
    """

    level: str
    start_ms: int
    end_ms: int
    wish_ms: int | None = None


@dataclass(slots=True, kw_only=True)
class Search:
    """The search for one place's anchor. rounds: in order of preference; key: names the place in draws; wish_ms: the
    wished moment of the anchor, None without one.
    """

    key: str
    rule: AnchorRule
    rounds: tuple[Round, ...]
    wish_ms: int | None = None
    answers: dict[Round, tuple[Candidate, ...]] = field(default_factory=dict)

    @property
    def seen(self) -> list[Candidate]:
        """Every candidate so far, in order of preference of the rounds."""
        return [item for asked in self.rounds for item in self.answers.get(asked, ())]

    def advance(self) -> tuple[Candidate | None, tuple[Round, ...]]:
        """The anchor where one is found, else the rounds to be asked next; neither when there is none.

        The first time only the most preferred window is asked about, then all others at once: a place that has no good
        scene in its own year seldom has one in the next, and a round of questions costs more than a scene more.
        """
        asked: list[Round] = []
        for window in dict.fromkeys((item.start_ms, item.end_ms) for item in self.rounds):
            levels = [item for item in self.rounds if (item.start_ms, item.end_ms) == window]
            anchor, missing = self._of_window(levels)
            if anchor is not None:
                return (None, tuple(asked)) if asked else (anchor, ())
            asked += missing
            if asked and not self.answers:
                break
        return None, tuple(asked)

    def _of_window(self, levels: Sequence[Round]) -> tuple[Candidate | None, list[Round]]:
        if self.wish_ms is not None:
            missing = [item for item in levels if item not in self.answers]
            found = [scene for item in levels for scene in self.answers.get(item, ())]
            return (None, missing) if missing else (choose_nearest(found, self.rule, self.wish_ms), [])
        for item in levels:
            if item not in self.answers:
                return None, [item]
            if self.answers[item]:  # another level of the same window would be the same acquisitions
                return choose_anchor(self.answers[item], self.rule, self.key), []
        return None, []


def rounds_of(
    *, s2: str, key: str, year: int, years: tuple[int, int], seed: int, wish_ms: int | None
) -> tuple[Round, ...]:
    """The questions about one place: around the wished moment, or its year and then the others in seeded order."""
    levels = {"l2a": ("l2a",), "l1c": ("l1c",)}.get(s2, ("l2a", "l1c"))
    if wish_ms is not None:
        windows = [(wish_ms - days * day_ms, wish_ms + days * day_ms + 1) for days in wish_windows_days]
        return tuple(
            Round(level, *window, wish_ms if number == 0 else None)
            for number, window in enumerate(windows)
            for level in levels
        )
    return tuple(
        Round(level, *year_window(other))
        for other in year_order(year, years, seed, key)
        for level in _levels_of_year(levels, other)
    )


def _levels_of_year(levels: tuple[str, ...], year: int) -> tuple[str, ...]:
    """The levels to ask for one after the other: the first that has any scene decides."""
    return levels if len(levels) == 1 or year >= whole_l2a_year else (either_level, "l2a")
