"""The seasons of a year as windows of time, and the scene that stands for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from m3etl.spec.program import seasons
from m3etl.spec.scenes import AnchorRule, Candidate, choose_anchor
from m3etl.spec.search import Round


def season_window(year: int, season: str) -> tuple[int, int]:
    """[start, end) in ms of a season, which is of the year of its last month: DJF begins in December before."""
    first, last = seasons[season]
    start = datetime(year - (first > last), first, 1, tzinfo=UTC)
    end = datetime(year, last + 1, 1, tzinfo=UTC)
    return round(start.timestamp() * 1000), round(end.timestamp() * 1000)


def season_middle(year: int, season: str) -> int:
    """The moment, in ms, that stands for a season without a scene."""
    start, end = season_window(year, season)
    return (start + end) // 2


def season_rounds(year: int) -> dict[str, Round]:
    """The question about the scenes of each season: the least cloudy granules of level 2A."""
    return {season: Round("l2a", *season_window(year, season)) for season in seasons}


def choose_dates(
    year: int, answers: Mapping[Round, tuple[Candidate, ...]], rule: AnchorRule, place: str
) -> dict[str, Candidate | None]:
    """The scene of each season by the rule of anchors, drawn by (seed, place, season); None where none is good."""
    return {
        season: choose_anchor(answers.get(asked, ()), rule, f"{place} {season}")
        for season, asked in season_rounds(year).items()
    }
