"""What every stage returns and how it reports on its way: a mergeable summary and the progress protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The result of one stage, or of one part of it; parts add up with `merge`.

    `facts` are the stage's own figures, shown in the order given and written by `--json`; `errors` counts reasons.
    """

    stage: str
    done: int = 0
    skipped: int = 0
    rejected: int = 0
    failed: int = 0
    seconds: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def merge(self, other: Summary) -> Summary:
        """The two summaries of the same stage as one; numeric facts add up, others keep the later value."""
        if other.stage != self.stage:
            raise ValueError(f"cannot merge a summary of {other.stage!r} into one of {self.stage!r}")
        errors = dict(self.errors)
        for reason, count in other.errors.items():
            errors[reason] = errors.get(reason, 0) + count
        facts = dict(self.facts)
        for name, value in other.facts.items():
            both_numbers = isinstance(value, int | float) and isinstance(facts.get(name), int | float)
            facts[name] = facts[name] + value if both_numbers else value
        return Summary(
            stage=self.stage,
            done=self.done + other.done,
            skipped=self.skipped + other.skipped,
            rejected=self.rejected + other.rejected,
            failed=self.failed + other.failed,
            seconds=self.seconds + other.seconds,
            errors=errors,
            facts=facts,
        )

    def top_errors(self, count: int = 5) -> list[tuple[str, int]]:
        """The most frequent reasons of failure, most frequent first."""
        return sorted(self.errors.items(), key=lambda item: (-item[1], item[0]))[:count]


class Progress(Protocol):
    """Where a stage reports while it runs: a bar or log lines on the command line, nothing for a library caller."""

    def start(self, label: str, total: int | None) -> None: ...

    def advance(self, count: int = 1, **fields: Any) -> None:
        """`count` more items are finished; `fields` (rate, in_flight, retries ...) replace those shown before."""

    def finish(self) -> None: ...

    def say(self, text: str) -> None:
        """One line for the user, e.g. that a missing earlier stage runs now."""


class SilentProgress:
    """Reports nothing."""

    def start(self, label: str, total: int | None) -> None:
        return None

    def advance(self, count: int = 1, **fields: Any) -> None:
        return None

    def finish(self) -> None:
        return None

    def say(self, text: str) -> None:
        return None


def size_text(nbytes: float) -> str:
    """`812 bytes`, `9.1 MB` or `1.4 TB`: decimal units, as the Hub counts."""
    size, unit = float(nbytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 999.5:
            break
        size, unit = size / 1000.0, larger
    return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.1f} {unit}"
