"""Files of a folder over HTTP on a loopback port: byte ranges, redirects as the Hub gives them, faults, a log."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class RangeServer(ThreadingHTTPServer):
    """root: what is served below /. log: (path, first byte, last byte + 1) of each answer. refuse: requests still to be
    answered with 503; token: what must be sent for /datasets/, which redirects to the file below /."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.log: list[tuple[str, int, int]] = []
        self.refuse = 0
        self.token = ""
        self.no_ranges = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges_of(self, part: str) -> list[tuple[str, int, int]]:
        """Answers for paths that hold `part`."""
        return [item for item in self.log if part in item[0]]


@contextmanager
def range_server(root: Path) -> Iterator[RangeServer]:
    """A running server; it ends with the block."""
    server = RangeServer(root)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        hub = re.fullmatch(r"/datasets/[^/]+/[^/]+/resolve/[^/]+(/.*)", path)
        if self.server.refuse:
            self.server.refuse -= 1
            self._answer(503, b"later")
        elif hub and self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, b"who are you")
        elif hub:
            self._answer(302, b"", {"Location": f"{self.server.url}{hub[1]}"})
        else:
            self._file(path)

    def _file(self, path: str) -> None:
        file = self.server.root / path.lstrip("/")
        if not file.is_file():
            self._answer(404, b"")
            return
        content = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if wanted is None or self.server.no_ranges:
            self.server.log.append((path, 0, len(content)))
            self._answer(200, content)
            return
        if wanted[1]:
            first, end = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
        else:
            first, end = max(len(content) - int(wanted[2]), 0), len(content)
        if first >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        self.server.log.append((path, first, end))
        self._answer(206, content[first:end], {"Content-Range": f"bytes {first}-{end - 1}/{len(content)}"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            **(headers or {}),
            "Content-Length": str(len(content)),
            "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT",
            "ETag": '"1"',
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
