"""A server of the fake evaluator in this process, and a plain HTTP client for it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakes.engine import FakeAssets, FakeEvaluator, FakeUsage, fake_asset_json

from m3etl.emulator.faults import parse_faults
from m3etl.emulator.http_server import EmulatorServer
from m3etl.emulator.server import running
from m3etl.emulator.service import Service
from m3etl.emulator.work import Workers


def fake_service(state_dir: Path, evaluator: FakeEvaluator | None = None, workers: int = 2) -> Service:
    """A service over the fakes."""
    engine = evaluator or FakeEvaluator()
    return Service(
        state_dir=state_dir,
        open_assets=FakeAssets,
        make_evaluator=lambda assets: engine,
        asset_json=fake_asset_json,
        make_usage=FakeUsage,
        workers=Workers(workers),
    )


@contextmanager
def fake_server(
    state_dir: Path, evaluator: FakeEvaluator | None = None, *, faults: Any = None, log: Path | None = None
) -> Iterator[EmulatorServer]:
    """A running server over the fakes."""
    plan = parse_faults(faults) if faults is not None else None
    with running(fake_service(state_dir, evaluator), plan=plan, log=log) as server:
        yield server


class Answer:
    """A response: status, headers with lower-case names, body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {key.lower(): value for key, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The message of the service's error body."""
        error = self.json["error"]
        assert error["code"] == self.status
        return str(error["message"])


def ask(
    server: EmulatorServer, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request on a connection of its own; `body` is sent as JSON unless it is bytes."""
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), port, timeout=30)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body=data, headers=headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def post(server: EmulatorServer, method: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
    """POST to a method of the project m3etl-embedded, e.g. "value:compute"."""
    return ask(server, "POST", f"/v1/projects/m3etl-embedded/{method}", body, headers)
