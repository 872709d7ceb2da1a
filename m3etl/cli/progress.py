"""How a running stage reports on standard error: a bar on a terminal, log lines where there is none."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

import click

from m3etl.cli.output import duration_text
from m3etl.stages.summary import Progress

seconds_between_lines = 10.0
rate_window_s = 30.0
steady_after_s = 2.0  # a rate is first told so long after the first item
echo_columns = 3  # kept free at the right: a terminal writes ^C there, and a wrapped one would break the bar
refreshes_per_second = 4.0
field_names = {
    "refused": "429s",
    "images_per_second": "images/s",
    "step": "at step",
}  # where the stages' own words say less


def make_progress(stream: TextIO | None = None) -> Progress:
    """The progress that suits `stream` (standard error by default); what still runs ends with the command."""
    stream = stream or sys.stderr
    progress = BarProgress(stream) if stream.isatty() else LineProgress(stream)
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(progress.finish)
    return progress


class Rate:
    """Items per second over the last half minute, or since the first item where that is less. What was waited for
    before it (scenes that are planned, the first answer) says nothing about the rest.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        """So many items are done by now."""
        if done == (self._seen[-1][1] if self._seen else 0):
            return
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= rate_window_s:
            self._seen.popleft()

    def per_second(self, now: float) -> float | None:
        """The rate now; None before a second item is done. It falls while nothing happens."""
        if len(self._seen) < 2 or now - self._seen[0][0] < steady_after_s:
            return None
        started, before = self._seen[0]
        return (self._seen[-1][1] - before) / (now - started)

    def text(self, now: float, total: int | None) -> str:
        """`, 4.2/s, 3 min 20 s left`; empty before there is a rate."""
        rate = self.per_second(now)
        if rate is None:
            return ""
        left = total - self._seen[-1][1] if total is not None else 0
        return f", {rate_text(rate)}" + (f", {duration_text(left / rate)} left" if left > 0 else "")


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
        self._rate = Rate()

    def start(self, label: str, total: int | None) -> None:
        """Begin to count `total` items (None: unknown)."""
        with self._lock:
            self._label, self._total, self._done, self._fields = label, total, 0, {}
            self._started = self._clock()
            self._next_at = self._started + self._every_s
            self._rate = Rate()
            self._write(f"{label}: started" + (f", {total:,} to do" if total is not None else ""))

    def advance(self, count: int = 1, **fields: Any) -> None:
        """`count` more items are finished."""
        with self._lock:
            self._done += count
            self._fields.update(fields)
            now = self._clock()
            self._rate.note(now, self._done)
            if now >= self._next_at:
                self._next_at = now + self._every_s
                self._write(self._line(self._rate.text(now, self._total)))

    def finish(self) -> None:
        """The end of what `start` began."""
        with self._lock:
            if self._started is not None:
                seconds = self._clock() - self._started
                mean = f", {rate_text(self._done / seconds)}" if self._done and seconds > 0 else ""
                self._write(f"{self._line(mean)} in {duration_text(seconds)}")
                self._started = None

    def say(self, text: str) -> None:
        """One line for the user."""
        with self._lock:
            self._write(text)

    def _line(self, rate: str) -> str:
        of_total = f"/{self._total:,}" if self._total is not None else ""
        return f"{self._label}: {self._done:,}{of_total}{rate}{fields_text(self._fields)}"

    def _write(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()


class BarProgress:
    """A bar with rate, time left and the stage's own fields on a second line, by rich. Safe to call from threads."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console

        self._console = Console(file=stream)
        self._clock = clock
        self._lock = threading.Lock()
        self._bar: Any = None
        self._fields: dict[str, Any] = {}
        self._rate = Rate()
        self._done = 0
        self._total: int | None = None

    def start(self, label: str, total: int | None) -> None:
        """Begin a new bar; a bar that still runs ends."""
        self.finish()
        with self._lock:
            self._fields, self._done, self._total = {}, 0, total
            self._rate = Rate()
            self._bar = _make_bar(self._console)
            self._bar.add_task(label, total=total, rate="", extra="")
            self._bar.start()

    def advance(self, count: int = 1, **fields: Any) -> None:
        """`count` more items are finished."""
        with self._lock:
            if self._bar is None:
                return
            now = self._clock()
            self._done += count
            self._fields.update(fields)
            self._rate.note(now, self._done)
            rate = self._rate.text(now, self._total).removeprefix(", ")
            extra = fields_text(self._fields).removeprefix(", ")
            self._bar.update(self._bar.task_ids[0], advance=count, rate=rate, extra=extra)

    def finish(self) -> None:
        """The bar stays on the screen as it is."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(text, markup=False, highlight=False)


def _make_bar(console: Any) -> Any:
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class TwoLines(Progress):
        """The bar, and below it what the stage says about itself: on one line it would not fit 80 columns."""

        def get_renderables(self) -> Any:
            extra = "\n".join(f"  {task.fields['extra']}" for task in self.tasks if task.fields["extra"])
            bar = self.make_tasks_table(self.tasks)
            lines = Group(bar, Text(extra, style="dim", overflow="ellipsis", no_wrap=True)) if extra else bar
            yield Constrain(lines, max(1, console.width - echo_columns))

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    return TwoLines(*columns, console=console, refresh_per_second=refreshes_per_second, expand=True)


def fields_text(fields: dict[str, Any]) -> str:
    """`, 429s 3, retries 0` after a counter; empty without fields."""
    parts = []
    for name, value in fields.items():
        shown = f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        parts.append(f", {field_names.get(name, name.replace('_', ' '))} {shown}")
    return "".join(parts)


def rate_text(per_second: float) -> str:
    """`12.3/s`, and by the minute below one in ten seconds."""
    if per_second >= 1000:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.3g}/s" if per_second >= 0.1 else f"{per_second * 60:.2g}/min"
