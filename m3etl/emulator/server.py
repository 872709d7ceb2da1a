"""The embedded Earth Engine as a server: put together, listening on a loopback address, until it is told to end."""

from __future__ import annotations

import ipaddress
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from m3etl.emulator.evaluator_process import Helping
from m3etl.emulator.faults import FaultPlan, Faults, read_faults
from m3etl.emulator.http_server import EmulatorServer, logger
from m3etl.emulator.log import RequestLog
from m3etl.emulator.model import AssetSource
from m3etl.emulator.operations import Operation
from m3etl.emulator.pixels import Evaluating
from m3etl.emulator.service import Service
from m3etl.errors import InputError


def make_service(state_dir: Path, archive: Path | None = None, *, helping: bool = False) -> Service:
    """The service over the planet, with an archive of real rasters over it where there is one.

    helping: under lasting load further processes evaluate beside this one, as many as there are cores.
    """

    def open_assets() -> AssetSource:
        from m3etl.emulator.assets import open_assets

        return open_assets(archive)

    def make_evaluator(assets: AssetSource) -> Evaluating:
        from m3etl.emulator.evaluate import Evaluator

        return Evaluator(assets)

    return Service(
        state_dir=state_dir,
        open_assets=open_assets,
        make_evaluator=make_evaluator,
        helping=Helping(archive) if helping else None,
        on_crash=_log_failed_export,
    )


def _log_failed_export(operation: Operation, error: BaseException) -> None:
    logger.error("operation %s failed", operation.name, exc_info=error)


@contextmanager
def running(
    service: Service, *, host: str = "127.0.0.1", port: int = 0, plan: FaultPlan | None = None, log: Path | None = None
) -> Iterator[EmulatorServer]:
    """Serves `service` in a thread of this process while the block runs; port 0 takes a free one."""
    with RequestLog(log) as request_log:
        server = _listen(host, port, service, plan or FaultPlan(), request_log)
        try:
            service.start()
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            yield server
            server.shutdown()
            thread.join()
        finally:
            server.server_close()
            service.close()


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    archive: Path | None = None,
    state_dir: Path | None = None,
    latency_ms: float = 0.0,
    faults: Path | None = None,
    log: Path | None = None,
    *,
    on_ready: Callable[[str], None] | None = None,
    until: threading.Event | None = None,
) -> None:
    """Serves the embedded Earth Engine until interrupted (Ctrl-C), or until the event is set; blocks.

    `host` must be a loopback address; port 0 takes a free one. `on_ready` is called with the URL once requests are
    answered. `state_dir` keeps operations and exported files; without it they are gone in the end. `latency_ms` is the
    least time of a request (over the faults file's base). Raises InputError for anything wrong with the arguments.
    """
    plan = read_faults(faults) if faults is not None else FaultPlan()
    if latency_ms < 0:
        raise InputError(f"The latency must not be negative, found {latency_ms:g} ms.")
    if latency_ms:
        plan = replace(plan, latency=replace(plan.latency, base_ms=latency_ms))
    with _state_directory(state_dir) as directory:
        service = make_service(directory, archive, helping=True)
        if archive is not None:
            service.assets  # noqa: B018 - reads the archive's index now, so that its faults are told now
        with running(service, host=host, port=port, plan=plan, log=log) as server:
            if on_ready is not None:
                on_ready(server.url)
            threading.Thread(target=_warm_up, args=(service,), daemon=True).start()
            try:
                (until or threading.Event()).wait()
            except KeyboardInterrupt:
                return


def _warm_up(service: Service) -> None:
    try:
        service.evaluator  # noqa: B018 - made on first use; requests that come sooner wait for it
    except Exception:
        logger.exception("warming up failed; the first request will tell why")


@contextmanager
def _state_directory(state_dir: Path | None) -> Iterator[Path]:
    if state_dir is None:
        with tempfile.TemporaryDirectory(prefix="m3etl-emulator-", ignore_cleanup_errors=True) as directory:
            yield Path(directory)
        return
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"Cannot use the state directory {state_dir}: {error.strerror}.",
            hint="The embedded Earth Engine keeps its operations there: make it writable, or free some space.",
        ) from None
    yield state_dir


def _listen(host: str, port: int, service: Service, plan: FaultPlan, log: RequestLog) -> EmulatorServer:
    name = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = False
    if not loopback or ":" in name:
        raise InputError(
            f"The embedded Earth Engine cannot listen on {host!r}.",
            hint="It has no access control and serves loopback addresses only; use 127.0.0.1.",
        )
    try:
        return EmulatorServer((name, port), service, Faults(plan), log)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"Cannot listen on {host}:{port}: {reason}.", hint="Choose another port, or 0 for a free one."
        ) from None
