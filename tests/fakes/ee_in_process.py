"""The real `ee` client over an evaluator in this process: no socket, no server, only the graphs that its classes
build.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import httplib2

with warnings.catch_warnings():
    # Google's library wants grpcio-status for messages of calls that nothing here makes.
    warnings.filterwarnings("ignore", "Please install grpcio-status", ImportWarning)
    import ee

from m3etl.emulator.discovery import discovery_document
from m3etl.emulator.evaluate import Evaluator
from m3etl.emulator.model import Grid, Projection, Raster, ServiceError
from m3etl.emulator.signatures import load_signatures


class Transport:
    """Answers discovery, algorithms and value:compute like a server would."""

    def __init__(self) -> None:
        self.evaluator: Evaluator | None = None

    def request(
        self, uri: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any
    ) -> tuple[httplib2.Response, bytes]:
        path = uri.split("?")[0]
        if path.endswith("/rest"):
            return self._json(discovery_document("http://in-process"))
        if path.endswith("/algorithms"):
            return self._json({"algorithms": load_signatures()})
        assert path.endswith("value:compute"), path
        assert self.evaluator is not None
        try:
            return self._json({"result": self.evaluator.value(json.loads(body)["expression"])})
        except ServiceError as error:
            answer = {"error": {"code": error.code, "status": error.status, "message": error.message}}
            return self._json(answer, error.code)

    def _json(self, value: Any, status: int = 200) -> tuple[httplib2.Response, bytes]:
        response = httplib2.Response({"status": str(status), "content-type": "application/json"})
        response.reason = "OK" if status == 200 else "Error"
        return response, json.dumps(value).encode()

    def close(self) -> None:
        pass


@contextmanager
def client() -> Iterator[Transport]:
    """`ee` is initialised for the length of the block; set `evaluator` on the transport before calling getInfo."""
    transport = Transport()
    ee.Reset()
    with mock.patch("ee.deprecation._FetchDataCatalogStac", return_value={}):
        ee.Initialize(credentials=None, url="http://in-process", project="m3etl-embedded", http_transport=transport)
    ee.data.setMaxRetries(0)
    try:
        yield transport
    finally:
        session = ee.data._get_state().requests_session
        if session is not None:
            session.close()
        ee.Reset()


def expression(computed: Any) -> Mapping[str, Any]:
    """The graph that the client would send for an object."""
    encoded: Mapping[str, Any] = ee.serializer.encode(computed, for_cloud_api=True)
    return encoded


def grid(crs: str, transform: tuple[float, ...], width: int, height: int) -> Grid:
    return Grid(projection=Projection(crs=crs, transform=transform), width=width, height=height)  # type: ignore[arg-type]


def pixels(evaluator: Evaluator, image: Any, on: Grid | None = None, **options: Any) -> Raster:
    """Pixels of a client image."""
    return evaluator.pixels(expression(image), grid=on, **options)
