"""Progress on standard error: log lines at a bounded rate, a bar on a terminal, safe from threads."""

from __future__ import annotations

import io
import threading

import pytest

from m3etl.cli.progress import BarProgress, LineProgress, Rate, make_progress, rate_text


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_the_start_at_intervals_and_at_the_end():
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, every_s=10, clock=clock)
    progress.start("export", 1000)
    for number in range(25):
        clock.now += 1
        progress.advance(2, in_flight=8, refused=number, retries=0)
    progress.finish()
    assert stream.getvalue().splitlines() == [
        "export: started, 1,000 to do",
        "export: 20/1,000, 2/s, 8 min 10 s left, in flight 8, 429s 9, retries 0",
        "export: 40/1,000, 2/s, 8 min 00 s left, in flight 8, 429s 19, retries 0",
        "export: 50/1,000, 2/s, in flight 8, 429s 24, retries 0 in 25.0 s",
    ]


def test_an_unknown_total_is_not_shown_and_the_end_comes_once():
    stream = io.StringIO()
    progress = LineProgress(stream, clock=Clock())
    progress.start("tile", None)
    progress.finish()
    progress.finish()
    progress.say("what runs now")
    assert stream.getvalue().splitlines() == ["tile: started", "tile: 0 in 0.0 s", "what runs now"]


def test_the_rate_is_that_of_the_last_half_minute():
    rate = Rate()
    assert rate.per_second(5.0) is None
    assert rate.text(5.0, 10) == ""
    for second in range(1, 41):
        rate.note(float(second), 10 * second)
    assert rate.per_second(40.0) == pytest.approx(10.0)
    for second in range(41, 101):
        rate.note(float(second), 400 + 2 * (second - 40))
    assert rate.per_second(100.0) == pytest.approx(2.0, rel=0.05)
    assert rate.per_second(160.0) < 1.0, "it falls while nothing happens"
    assert rate.text(100.0, None) == ", 2/s"


def test_the_wait_for_the_first_item_is_no_rate():
    """Twenty seconds of planning, then an item a second: not `7 min left` at the first of forty."""
    rate = Rate()
    rate.note(20.0, 0)
    rate.note(20.5, 1)
    assert rate.text(20.6, 41) == ""
    for second in range(1, 11):
        rate.note(20.5 + second, 1 + second)
    assert rate.text(30.5, 41) == ", 1/s, 30.0 s left"


def test_rates():
    assert [rate_text(value) for value in (3240.4, 93.24, 0.5, 0.02)] == ["3,240/s", "93.2/s", "0.5/s", "1.2/min"]


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
    clock, stream = Clock(), io.StringIO()
    progress = BarProgress(stream, clock=clock)
    progress.start("export", 4)
    progress.advance(1)
    clock.now = 5.0
    progress.advance(2, refused=2, retries=1)
    progress.say("[red] is text and no markup")
    progress.finish()
    progress.advance()
    text = stream.getvalue()
    assert "export" in text
    assert "3/4" in text
    assert "429s 2, retries 1" in text
    assert "/s, " in text
    assert "left" in text
    assert "[red] is text" in text


def test_a_bar_leaves_room_for_what_a_terminal_echoes(monkeypatch):
    """`^C` at the end of a full line wraps, and the bar is then drawn once more below itself."""
    monkeypatch.setenv("COLUMNS", "60")
    stream = io.StringIO()
    progress = BarProgress(stream)
    progress.start("pixels", 84)
    progress.advance(1, scenes=76, questions=2, in_flight=38, retries=0, refused=0, megabytes=1234.5)
    progress.finish()
    lines = [line for line in stream.getvalue().splitlines() if line.strip()]
    assert lines
    assert max(len(line) for line in lines) <= 57, "spaces count too"


def test_a_stream_that_is_no_terminal_gets_lines():
    assert isinstance(make_progress(io.StringIO()), LineProgress)


def test_a_step_of_training_is_one_short_line():
    stream = io.StringIO()
    progress = LineProgress(stream, every_s=0, clock=Clock())
    progress.start("pretrain", 150)
    progress.advance(1, loss="18.529", images_per_second="13", step=1)
    line = stream.getvalue().splitlines()[1]
    assert line == "pretrain: 1/150, loss 18.529, images/s 13, at step 1"
