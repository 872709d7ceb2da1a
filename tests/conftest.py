"""What every test gets: few threads, no outside network, no settings of the developer's shell, and the real rasters."""

# ruff: noqa: E402 - the number of threads must be fixed before numpy is imported

from __future__ import annotations

import os

# Before numpy, numba and torch are imported: tests share a small machine and must not depend on its number of cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

repository = Path(__file__).resolve().parent.parent

settings.register_profile("m3etl", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("m3etl")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--online", action="store_true", help="run the checks against the real Earth Engine (needs a login)"
    )
    parser.addoption("--kills", type=int, default=12, help="how often the export under faults is killed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--online"):
        return
    skip = pytest.mark.skip(reason="needs an Earth Engine account: run with --online")
    for item in items:
        if item.get_closest_marker("online"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real rasters and ecoregions (M3ETL_REAL_DATA, or shared/data beside the checkout)."""
    path = Path(os.environ.get("M3ETL_REAL_DATA") or repository.parent / "shared" / "data")
    if not (path / "archive.jsonl").is_file():
        pytest.skip(f"the real test data is not at {path}: set M3ETL_REAL_DATA")
    return path


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("M3ETL_") and name != "M3ETL_REAL_DATA"]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_outside_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that leaves the machine fails at once instead of passing only where there is a network."""
    if request.node.get_closest_marker("online"):
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple) and not _is_loopback(str(address[0])):
            raise ConnectionRefusedError(111, f"tests stay on this machine, tried {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
