"""Tasks in threads and on Dask workers: the same results in the same order, and nothing lost with a worker."""

from __future__ import annotations

import os
import time

import pytest
from fakes.dask_cluster import dask_cluster
from fakes.tasks_for_workers import note_and_wait, refuse, square, where

from m3etl.errors import DamagedError, InputError, RemoteError
from m3etl.io import workers
from m3etl.io.workers import open_workers, usable_cores


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with dask_cluster(tmp_path_factory.mktemp("dask")) as found:
        yield found


def test_threads_give_results_in_order_and_run_few_ahead(tmp_path):
    asked = []

    def arguments():
        for number in range(50):
            asked.append(number)
            yield (number,)

    with open_workers(shared=tmp_path, threads=2) as opened:
        results = opened.run(square, arguments())
        assert next(results) == 0
        assert len(asked) < 10
        assert list(results) == [number * number for number in range(1, 50)]
        with pytest.raises(DamagedError, match="chip 3 is damaged"):
            list(opened.run(refuse, [(3,)]))


def test_cores_are_counted_where_processes_are_not_bound_to_them(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert usable_cores() == os.cpu_count()
    with open_workers(shared=tmp_path) as opened:
        assert list(opened.run(square, [(3,)])) == [9]


def test_dask_gives_the_same_in_the_same_order(cluster, tmp_path):
    with open_workers(cluster.address, shared=tmp_path) as opened:
        assert list(opened.run(square, ((number,) for number in range(30)))) == [n * n for n in range(30)]
        places = list(opened.run(where, ((number,) for number in range(12))))
        assert [number for number, _ in places] == list(range(12))
        assert len({pid for _, pid in places}) >= 1
        assert os.getpid() not in {pid for _, pid in places}
        with pytest.raises(DamagedError, match="chip 3 is damaged") as caught:
            list(opened.run(refuse, [(3,)]))
        assert caught.value.hint == "Restore it."


def test_a_worker_that_is_killed_loses_nothing(tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    with (
        dask_cluster(tmp_path / "dask") as cluster,
        open_workers(cluster.address, shared=tmp_path) as opened,
    ):
        while len(opened._client.nthreads()) < 2:
            time.sleep(0.05)
        results = opened.run(note_and_wait, ((str(begun), number) for number in range(8)))
        assert next(results) == 0
        victim = cluster.workers[1]
        while not any(path.name.endswith(f"-{victim.pid}") for path in begun.iterdir()):
            time.sleep(0.02)
        victim.kill()
        assert list(results) == list(range(1, 8))


def test_a_place_that_workers_do_not_see_is_refused(cluster, tmp_path):
    with (
        pytest.raises(InputError, match=r"tcp://.* does not see .*gone"),
        open_workers(cluster.address, shared=tmp_path / "gone"),
    ):
        pass


def test_another_version_is_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "__version__", "0.0.1")
    with (
        pytest.raises(InputError, match=r"has m3etl .* instead of 0\.0\.1"),
        open_workers(cluster.address, shared=tmp_path),
    ):
        pass


def test_no_scheduler_and_no_address(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "connect_timeout_s", 0.5)
    with (
        pytest.raises(RemoteError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        open_workers("tcp://127.0.0.1:9", shared=tmp_path),
    ):
        pass
    with pytest.raises(InputError, match="no address"), open_workers("nonsense://x", shared=tmp_path):
        pass
