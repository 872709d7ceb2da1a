"""Progress on standard error: log lines at a bounded rate, a bar on a terminal, safe from threads."""

from __future__ import annotations

import io
import threading

from m3etl.cli.progress import BarProgress, LineProgress, make_progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_the_start_at_intervals_and_at_the_end():
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, every_s=10, clock=clock)
    progress.start("export", 1000)
    for _ in range(25):
        clock.now += 1
        progress.advance(2, rate=2.0, retries=0)
    progress.finish()
    assert stream.getvalue().splitlines() == [
        "export: started, 1,000 to do",
        "export: 20/1,000, rate 2, retries 0",
        "export: 40/1,000, rate 2, retries 0",
        "export: 50/1,000, rate 2, retries 0 in 25.0 s",
    ]


def test_an_unknown_total_is_not_shown_and_the_end_comes_once():
    stream = io.StringIO()
    progress = LineProgress(stream, clock=Clock())
    progress.start("tile", None)
    progress.finish()
    progress.finish()
    progress.say("what runs now")
    assert stream.getvalue().splitlines() == ["tile: started", "tile: 0 in 0.0 s", "what runs now"]


def test_threads_lose_no_count():
    stream = io.StringIO()
    progress = LineProgress(stream, clock=Clock())
    progress.start("x", 800)
    threads = [threading.Thread(target=lambda: [progress.advance() for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.finish()
    assert "x: 800/800" in stream.getvalue()


def test_a_bar_shows_label_count_and_fields():
    stream = io.StringIO()
    progress = BarProgress(stream)
    progress.start("export", 4)
    progress.advance(3, rate=1.5)
    progress.say("[red] is text and no markup")
    progress.finish()
    progress.advance()
    text = stream.getvalue()
    assert "export" in text
    assert "3/4" in text
    assert "rate 1.5" in text
    assert "[red] is text" in text


def test_a_stream_that_is_no_terminal_gets_lines():
    assert isinstance(make_progress(io.StringIO()), LineProgress)
