"""The HTTP/1.1 side: one thread per connection, faults and gates before the routes, one log line per request."""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from m3etl.emulator.distort import Distorter
from m3etl.emulator.faults import Faults, Rule
from m3etl.emulator.log import RequestLog
from m3etl.emulator.messages import (
    Account,
    FileSlice,
    Request,
    Response,
    error_response,
    rate_message,
)
from m3etl.emulator.model import ServiceError
from m3etl.emulator.routes import dispatch
from m3etl.emulator.service import Service

logger = logging.getLogger("m3etl.emulator")

# "Request payload size exceeds the limit" as users of the service report it.
max_body_bytes = 10_485_760
# How much of a body that is too large is still read, so that the client gets to see the answer.
_max_drain_bytes = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of a request; no response: the connection is dropped."""

    response: Response | None
    fault: int | None = None
    truncate: bool | int = False


class EmulatorServer(ThreadingHTTPServer):
    """Serves a Service on a loopback address. Use `serve` or `running` instead where they fit."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], service: Service, faults: Faults, log: RequestLog) -> None:
        self.service = service
        self.faults = faults
        self.log = log
        self._in_flight = 0
        self._counting = threading.Lock()
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def in_flight(self) -> int:
        """How many requests are being served now."""
        with self._counting:
            return self._in_flight

    @contextmanager
    def counted(self) -> Iterator[int]:
        """Counts a request as in flight and gives the count, itself included."""
        with self._counting:
            self._in_flight += 1
            count = self._in_flight
        try:
            yield count
        finally:
            with self._counting:
                self._in_flight -= 1

    def answer(self, request: Request, in_flight: int) -> _Outcome:
        """Gates, scripted faults, the route and the latency model, in this order."""
        started = time.monotonic()
        if not request.path.startswith("/v1/"):
            return self._act(request, started, metered=False)
        if self.faults.refuses(in_flight):
            return _Outcome(response=error_response(429, rate_message))
        return self._act(request, started, metered=True)

    def _act(self, request: Request, started: float, *, metered: bool) -> _Outcome:
        faults = self.faults
        index, rule = faults.pick(request.method, request.path) or (None, None)
        if rule is not None:
            time.sleep(rule.delay_ms / 1000.0)
            if rule.drop in (True, "before"):
                return _Outcome(response=None, fault=index)
        response = rule.answer() if rule is not None else None
        if response is None:
            response = self._dispatch(request)
            if metered:
                remaining = started + faults.plan.latency.seconds(request.account) - time.monotonic()
                if remaining > 0:
                    time.sleep(remaining)
        if faults.distorter is not None:
            response = self._altered(faults.distorter, response, rule)
        if rule is None:
            return _Outcome(response=response)
        if rule.drop == "after":
            return _Outcome(response=None, fault=index)
        return _Outcome(response=_with_headers(response, rule), fault=index, truncate=rule.truncate)

    def _altered(self, distorter: Distorter, response: Response, rule: Rule | None) -> Response:
        if response.status != 200 or not isinstance(response.body, bytes):
            return response
        before = distorter.remember(response.body)
        if rule is None or rule.alter is None:
            return response
        return replace(response, body=distorter.apply(rule.alter, response.body, before))

    def _dispatch(self, request: Request) -> Response:
        try:
            return dispatch(self.service, request)
        except ServiceError as error:
            return error_response(error.code, error.message, status=error.status)
        except MemoryError:
            return error_response(400, "User memory limit exceeded.")
        except RecursionError:
            return error_response(400, "The expression is nested too deeply.")
        except Exception as error:
            identifier = secrets.token_hex(8)
            logger.exception("request %s: %s %s failed", identifier, request.method, request.path)
            return error_response(500, f"An internal error has occurred (request {identifier}): {error!r}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news; anything else is logged."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            logger.exception("connection from %s failed", client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "m3etl-emulator"
    sys_version = ""
    disable_nagle_algorithm = True
    server: EmulatorServer

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are logged by the server, in its own form."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what is not proper HTTP, with the service's error body."""
        self.close_connection = True
        self._send(error_response(int(code), message or explain or "Bad request"), truncate=False)

    def _serve(self) -> None:
        started = time.monotonic()
        split = urlsplit(self.path)
        path = unquote(split.path)
        with self.server.counted() as in_flight:
            account = Account(is_wanted=self._is_connected)
            body, problem = self._read_body()
            request = Request(
                method=self.command,
                path=path,
                query=dict(parse_qsl(split.query, keep_blank_values=True)),
                headers={key.lower(): value for key, value in self.headers.items()},
                body=body,
                account=account,
            )
            outcome = self.server.answer(request, in_flight) if problem is None else _Outcome(response=problem)
            self.server.log.write(
                method=request.method,
                path=path,
                status=outcome.response.status if outcome.response is not None else 0,
                bytes=_length(outcome.response.body) if outcome.response is not None else 0,
                in_flight=in_flight,
                eecu_s=round(account.eecu_s, 6),
                seconds=round(time.monotonic() - started, 6),
                bands=account.bands,
                scenes=account.scenes,
                fault=outcome.fault,
                digest=hashlib.sha256(body).hexdigest()[:16] if body else None,
            )
        if outcome.response is None:
            self._drop()
        else:
            self._send(outcome.response, truncate=outcome.truncate)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815

    def _is_connected(self) -> bool:
        """Whether the client has not closed its side; what it has sent meanwhile stays to be read."""
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _read_body(self) -> tuple[bytes, Response | None]:
        """The body, or the answer to one that cannot be read."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            self.close_connection = True
            return b"", error_response(411, "Requests need a Content-Length.")
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            length = -1
        if length < 0:
            self.close_connection = True
            return b"", error_response(400, "Invalid Content-Length.")
        if length > max_body_bytes:
            self.close_connection = True
            remaining = min(length, _max_drain_bytes)
            while remaining > 0 and (block := self.rfile.read(min(remaining, 1 << 20))):
                remaining -= len(block)
            return b"", error_response(400, f"Request payload size exceeds the limit: {max_body_bytes} bytes.")
        return self.rfile.read(length) if length else b"", None

    def _send(self, response: Response, *, truncate: bool | int) -> None:
        length = _length(response.body)
        lines = [
            f"HTTP/1.1 {response.status} {self.responses.get(response.status, ('Unknown', ''))[0]}",
            f"Date: {self.date_time_string()}",
            f"Server: {self.server_version}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {length}",
            *(f"{name}: {value}" for name, value in response.headers.items()),
        ]
        if truncate is not False:
            self.close_connection = True
        if self.close_connection:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        send = length if truncate is False else length // 2 if truncate is True else min(truncate, length)
        try:
            if self.command == "HEAD":
                self.connection.sendall(head)
            elif isinstance(response.body, FileSlice):
                self.connection.sendall(head)
                self._send_file(response.body, send)
            elif length <= 65_536:
                self.connection.sendall(head + response.body[:send])
            else:
                self.connection.sendall(head)
                self.connection.sendall(memoryview(response.body)[:send])
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        if truncate is not False:
            self._drop()

    def _send_file(self, piece: FileSlice, count: int) -> None:
        if count:
            with piece.path.open("rb") as file:
                self.connection.sendfile(file, piece.start, count)

    def _drop(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def _length(body: bytes | FileSlice) -> int:
    return body.length if isinstance(body, FileSlice) else len(body)


def _with_headers(response: Response, rule: Rule) -> Response:
    return replace(response, headers={**response.headers, **rule.headers}) if rule.headers else response
