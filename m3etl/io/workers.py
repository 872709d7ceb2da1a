"""Where tasks run: in threads of this process, or on the workers of a Dask scheduler. Tasks share nothing.

A task is a function that can be imported and arguments that can be pickled; it may run twice (its worker was lost), so
it must leave the same behind. Results come back in the order of the arguments, so that they do not depend on who ran.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from m3etl import __version__
from m3etl.errors import InputError, RemoteError

T = TypeVar("T")

connect_timeout_s = 10.0
worker_timeout_s = 30.0  # for the first worker to appear
waiting_per_thread = 2  # tasks handed out beyond those that run


class Workers(Protocol):
    """Runs a task for every tuple of arguments."""

    def run(self, task: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Results in the order of `arguments`, of which few are ahead of what was taken."""
        ...


@contextlib.contextmanager
def open_workers(scheduler: str = "", *, shared: Path, threads: int = 0) -> Iterator[Workers]:
    """Threads of this process (as many as cores by default), or the workers of the Dask scheduler at an address.

    scheduler: such as `tcp://10.0.0.1:8786`; empty for threads. shared: the directory that tasks work in; every worker
    must see it, and have this version of m3etl.

    Raises InputError for a bad address or workers that do not fit, RemoteError where no scheduler or worker answers.
    """
    if scheduler:
        with _connected(scheduler) as client:
            _check_workers(client, scheduler, shared)
            yield DaskWorkers(client, scheduler)
        return
    threads = threads or usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield ThreadWorkers(pool, threads)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS does not bind processes to cores


class ThreadWorkers:
    """Tasks in threads of this process."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._pool = pool
        self._threads = threads

    def run(self, task: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """See `Workers`."""
        return _in_order(
            lambda given: self._pool.submit(task, *given), arguments, self._threads * (1 + waiting_per_thread)
        )


class DaskWorkers:
    """Tasks on the workers of a scheduler. What a lost worker had is run again by another."""

    def __init__(self, client: Any, scheduler: str) -> None:
        self._client = client
        self._scheduler = scheduler

    def run(self, task: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """See `Workers`. Raises RemoteError where workers are lost again and again, or the scheduler."""
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        threads = sum(self._client.nthreads().values())
        # A task is not a function of its arguments but of what lies on the disk: never take an earlier result.
        results = _in_order(
            lambda given: self._client.submit(task, *given, pure=False), arguments, threads * (1 + waiting_per_thread)
        )
        try:
            yield from results
        except KilledWorker as error:
            raise RemoteError(
                f"several workers of {self._scheduler} were lost while they ran the same task",
                hint="Do they have enough memory? See their logs, then run the same command again.",
            ) from error
        except (CommClosedError, TimeoutError, OSError) as error:
            raise RemoteError(
                f"the scheduler {self._scheduler} was lost: {error}",
                hint="Run the same command again when it is back; what is finished stays.",
            ) from error


def _in_order(
    submit: Callable[[tuple[Any, ...]], Any], arguments: Iterable[tuple[Any, ...]], most: int
) -> Iterator[Any]:
    remaining = iter(arguments)
    waiting = deque(submit(given) for given in itertools.islice(remaining, most))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(submit(given) for given in itertools.islice(remaining, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    from distributed import Client

    make: Any = Client  # has no types
    try:
        client = make(scheduler, timeout=connect_timeout_s, set_as_default=False)
    except ValueError as error:
        raise InputError(
            f"{scheduler!r} is no address of a Dask scheduler: {error}", hint="Use tcp://HOST:PORT."
        ) from error
    except (OSError, TimeoutError) as error:
        raise RemoteError(
            f"no Dask scheduler answers at {scheduler}",
            hint="Start one with `dask scheduler`, and workers with `dask worker ADDRESS`; or leave --scheduler out.",
        ) from error
    try:
        yield client
    finally:
        client.close()


def _check_workers(client: Any, scheduler: str, shared: Path) -> None:
    try:
        client.wait_for_workers(1, timeout=worker_timeout_s)
    except TimeoutError as error:
        raise RemoteError(
            f"the scheduler {scheduler} has no workers", hint=f"Start some: `dask worker {scheduler}`."
        ) from error
    found = client.run(describe_worker, str(shared.resolve()), on_error="return")
    problems = []
    for address, answer in sorted(found.items()):
        if isinstance(answer, BaseException):
            problems.append(f"{address} cannot run m3etl ({answer})")
        elif answer[0] != __version__:
            problems.append(f"{address} has m3etl {answer[0]} instead of {__version__}")
        elif not answer[1]:
            problems.append(f"{address} does not see {shared.resolve()}")
    if problems:
        raise InputError(
            f"workers of {scheduler} do not fit: {'; '.join(problems[:5])}",
            hint="Workers need this version of m3etl and the campaign at the same path, on a disk that all share.",
        )


def describe_worker(shared: str) -> tuple[str, bool]:
    """Runs on a worker: its version of m3etl, and whether it sees a directory."""
    return __version__, Path(shared).is_dir()
