"""How a running stage reports on standard error: a bar on a terminal, log lines where there is none."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

import click

from m3etl.stages.summary import Progress

seconds_between_lines = 10.0


def make_progress(stream: TextIO | None = None) -> Progress:
    """The progress that suits `stream` (standard error by default); what still runs ends with the command."""
    stream = stream or sys.stderr
    progress = BarProgress(stream) if stream.isatty() else LineProgress(stream)
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(progress.finish)
    return progress


class LineProgress:
    """Log lines: the start, then at most one line per `every_s` seconds, and the end. Safe to call from threads."""

    def __init__(
        self, stream: TextIO, *, every_s: float = seconds_between_lines, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._fields: dict[str, Any] = {}
        self._next_at = 0.0
        self._started: float | None = None

    def start(self, label: str, total: int | None) -> None:
        """Begin to count `total` items (None: unknown)."""
        with self._lock:
            self._label, self._total, self._done, self._fields = label, total, 0, {}
            self._started = self._clock()
            self._next_at = self._started + self._every_s
            self._write(f"{label}: started" + (f", {total:,} to do" if total is not None else ""))

    def advance(self, count: int = 1, **fields: Any) -> None:
        """`count` more items are finished."""
        with self._lock:
            self._done += count
            self._fields.update(fields)
            now = self._clock()
            if now >= self._next_at:
                self._next_at = now + self._every_s
                self._write(self._line())

    def finish(self) -> None:
        """The end of what `start` began."""
        with self._lock:
            if self._started is not None:
                self._write(f"{self._line()} in {self._clock() - self._started:.1f} s")
                self._started = None

    def say(self, text: str) -> None:
        """One line for the user."""
        with self._lock:
            self._write(text)

    def _line(self) -> str:
        of_total = f"/{self._total:,}" if self._total is not None else ""
        return f"{self._label}: {self._done:,}{of_total}{fields_text(self._fields)}"

    def _write(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()


class BarProgress:
    """A bar with rate, time left and the stage's own fields, by rich."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(file=stream)
        self._bar_class = RichProgress
        self._columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[extra]}"),
        )
        self._bar: RichProgress | None = None
        self._fields: dict[str, Any] = {}

    def start(self, label: str, total: int | None) -> None:
        """Begin a new bar; a bar that still runs ends."""
        self.finish()
        self._fields = {}
        self._bar = self._bar_class(*self._columns, console=self._console)
        self._bar.add_task(label, total=total, extra="")
        self._bar.start()

    def advance(self, count: int = 1, **fields: Any) -> None:
        """`count` more items are finished."""
        if self._bar is None:
            return
        self._fields.update(fields)
        self._bar.update(self._bar.task_ids[0], advance=count, extra=fields_text(self._fields))

    def finish(self) -> None:
        """The bar stays on the screen as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(text, markup=False, highlight=False)


def fields_text(fields: dict[str, Any]) -> str:
    """`, rate 12.3, retries 0` after a counter; empty without fields."""
    parts = []
    for name, value in fields.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f", {name.replace('_', ' ')} {shown}")
    return "".join(parts)
