"""An evaluator in a process of its own: the same answers, errors and counts as here, and what happens when it dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from m3etl.emulator.assets import open_assets
from m3etl.emulator.evaluate import Evaluator, Usage
from m3etl.emulator.evaluator_process import EvaluatorProcess, Helping
from m3etl.emulator.messages import Account
from m3etl.emulator.model import Grid, Projection, ServiceError
from m3etl.emulator.pixels import call
from m3etl.emulator.server import make_service

grid = Grid(projection=Projection(crs="EPSG:32632", transform=(10, 0, 500_000, 0, -10, 5_000_000)), width=9, height=7)
elevation = call("Image.load", id="projects/sat-io/open-datasets/ASTER/GDEM")
too_many = call("List.sequence", start=1)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.fixture(scope="module")
def process() -> Iterator[EvaluatorProcess]:
    made = EvaluatorProcess(None)
    wait_until(lambda: made.is_ready)
    yield made
    made.close()


def test_answers_errors_and_counts_are_those_of_an_evaluator_here(process: EvaluatorProcess) -> None:
    here = Evaluator(open_assets(None))
    sums = call("Number.add", left=20, right=22)
    assert process.value(sums) == here.value(sums) == 42
    there_usage, here_usage = Usage(), Usage()
    there = process.pixels(elevation, grid=grid, band_ids=["b1"], visualization=None, usage=there_usage)
    own = here.pixels(elevation, grid=grid, band_ids=["b1"], visualization=None, usage=here_usage)
    np.testing.assert_array_equal(there.bands["b1"], own.bands["b1"])
    np.testing.assert_array_equal(there.valid["b1"], own.valid["b1"])
    assert (there_usage.scenes, there_usage.pixels) == (here_usage.scenes, here_usage.pixels)
    assert there_usage.scenes > 0
    assert process.cpu_s > 0
    shapes = [item.shape(elevation, grid=grid, band_ids=None, visualization=None) for item in (process, here)]
    assert shapes[0] == shapes[1]
    errors = []
    for evaluator in (process, here):
        with pytest.raises(ServiceError) as caught:
            evaluator.value(too_many)
        errors.append((caught.value.code, caught.value.status, caught.value.message))
    assert errors[0] == errors[1]


def test_a_process_that_dies_makes_its_request_a_500_and_is_replaced() -> None:
    helping = Helping(None, after_s=0.0)
    seen: list[Any] = []

    def as_second_thread() -> None:
        helping.add_busy(1.0)
        wait_until(lambda: helping.of_this_thread() is not None)
        process = helping.of_this_thread()
        assert process is not None
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(ServiceError) as caught:
            process.value(call("Number.add", left=1, right=1))
        seen.append(caught.value.code)
        wait_until(lambda: helping.of_this_thread() is not None)
        replaced = helping.of_this_thread()
        assert replaced is not None
        seen.append(replaced.value(call("Number.add", left=1, right=1)))

    assert helping.of_this_thread() is None, "the first thread works here"
    thread = threading.Thread(target=as_second_thread)
    thread.start()
    thread.join()
    helping.close()
    assert seen == [500, 2]


def test_a_service_under_lasting_load_answers_alike_from_both(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3etl.emulator.server.Helping", lambda archive: Helping(archive, after_s=0.05))
    service = make_service(tmp_path, helping=True)
    kinds: set[str] = set()
    answers: set[float] = set()

    def ask() -> None:
        account = Account()

        def work(evaluator: Any, usage: Any) -> Any:
            kinds.add(type(evaluator).__name__)
            time.sleep(0.02)  # so that no thread takes all
            return evaluator.pixels(elevation, grid=grid, band_ids=["b1"], visualization=None, usage=usage)

        answers.add(float(service.work(account, work).bands["b1"].sum()))
        assert account.eecu_s > 0
        assert account.scenes > 0

    end = time.monotonic() + 60
    while len(kinds) < 2 and time.monotonic() < end:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    service.close()
    assert kinds == {"Evaluator", "EvaluatorProcess"}
    assert len(answers) == 1
