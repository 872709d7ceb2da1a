"""A Hugging Face Hub on a loopback port, as far as the real client's upload of files kept in git needs it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

token = "hf_loopback"


class HubServer(ThreadingHTTPServer):
    """files: repository -> path -> content; refuse: number of commits still to be refused with 503."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.tags: dict[str, list[str]] = {}
        self.refuse = 0
        self.log: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A running hub; it ends with the block."""
    server = HubServer()
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
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.log.append(f"{method} {path}")
        if self.headers.get("Authorization") != f"Bearer {token}":
            self._send(401, {"error": "Invalid username or password."})
            return
        for pattern, handle in _routes.items():
            verb, _, expression = pattern.partition(" ")
            found = re.fullmatch(expression, path)
            if found and verb == method:
                self._send(*handle(self.server, body, **found.groupdict()))
                return
        self._send(404, {"error": f"no {method} {path}"})

    def _send(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _whoami(server: HubServer, body: bytes) -> tuple[int, Any]:
    return 200, {"name": "someone", "type": "user", "auth": {"accessToken": {"role": "write"}}}


def _create(server: HubServer, body: bytes) -> tuple[int, Any]:
    request = json.loads(body)
    name = f"{request['organization']}/{request['name']}" if request.get("organization") else request["name"]
    if name in server.files:
        return 409, {"error": "exists", "url": f"{server.url}/datasets/{name}"}
    server.files[name] = {}
    return 200, {"url": f"{server.url}/datasets/{name}"}


def _preupload(server: HubServer, body: bytes, repository: str) -> tuple[int, Any]:
    files = json.loads(body)["files"]
    known = server.files[repository]
    return 200, {
        "files": [
            {
                "path": item["path"],
                "uploadMode": "regular",
                "shouldIgnore": False,
                "oid": _blob(known[item["path"]]) if item["path"] in known else None,
            }
            for item in files
        ]
    }


def _commit(server: HubServer, body: bytes, repository: str) -> tuple[int, Any]:
    if server.refuse:
        server.refuse -= 1
        return 403, {"error": "refused"}
    for line in body.splitlines():
        item = json.loads(line)
        if item["key"] == "file":
            server.files[repository][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
    oid = hashlib.sha1(body).hexdigest()
    return 200, {"success": True, "commitOid": oid, "commitUrl": f"{server.url}/datasets/{repository}/commit/{oid}"}


def _tree(server: HubServer, body: bytes, repository: str) -> tuple[int, Any]:
    return 200, [
        {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
        for path, content in server.files[repository].items()
    ]


def _info(server: HubServer, body: bytes, repository: str) -> tuple[int, Any]:
    if repository not in server.files:
        return 404, {"error": "no such repository"}
    return 200, {"_id": "1", "id": repository, "sha": "0" * 40, "siblings": [], "private": False, "tags": []}


def _tag(server: HubServer, body: bytes, repository: str) -> tuple[int, Any]:
    server.tags.setdefault(repository, []).append(json.loads(body)["tag"])
    return 200, {}


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_repository = r"/api/datasets/(?P<repository>[^/]+/[^/]+)"
_routes = {
    r"GET /api/whoami-v2": _whoami,
    r"POST /api/repos/create": _create,
    rf"POST {_repository}/preupload/main": _preupload,
    rf"POST {_repository}/commit/main": _commit,
    rf"GET {_repository}/tree/main": _tree,
    rf"GET {_repository}": _info,
    rf"GET {_repository}/revision/main": _info,
    rf"POST {_repository}/tag/main": _tag,
}
