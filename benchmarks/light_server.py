"""The embedded Earth Engine with the work taken out: `python -m benchmarks.light_server`, a process of its own.

Every answer is computed once by the embedded Earth Engine and replayed afterwards, so that the server is never the
limit of what is measured: pixel answers by what is asked for (ids, places and numbers do not matter: the pixels are
constant), everything else by its exact request. Questions about a list of places are answered place by place, each with
the answer of one of `pool_places` places to the same question, its times moved to the time that was asked for.

Gates (429 beyond) and latency apply to every request. `GET /light/reset?latency_ms=..&band_ms=..&scene_ms=..` starts a
count and sets the latency, `GET /light/stats` gives the counts as JSON, `GET /light/sample` the last pixel request.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

from m3etl.emulator.faults import RateGate
from m3etl.emulator.messages import Account, Request, Response, error_response, json_response, rate_message
from m3etl.emulator.model import ServiceError
from m3etl.emulator.routes import dispatch
from m3etl.emulator.server import make_service
from m3etl.spec.catalog import arrays as catalogue

concurrency, per_second = 40, 100.0
pool_places = 8
reasons = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests"}
_text, _asset = b'{"constantValue": "', b'{"constantValue": "/'
_load = b'{"functionInvocationValue": {"functionName": "Image.load", "arguments": {"id": ' + _asset + b'"}}}}'
_loads = b"loads"
_time = "@time@"


@dataclass
class Answer:
    """A recorded answer and what the latency model needs to know of it."""

    response: Response
    bands: int = 0
    scenes: int = 0


@dataclass
class Counts:
    """What was served since the last reset."""

    statuses: Counter[int] = field(default_factory=Counter)
    nbytes: int = 0
    peak: int = 0
    computed: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    pixels: int = 0
    pixels_from_s: float = 0.0
    pixels_to_s: float = 0.0
    pixel_latency_s: float = 0.0


class Replays:
    """Answers by request; computed by the embedded Earth Engine where there is none yet. Used from worker threads."""

    def __init__(self, state_dir: Path) -> None:
        self._service = make_service(state_dir)
        self._known: dict[bytes, Answer] = {}
        self._pools: dict[str, dict[int, _Recorded]] = {}
        self.computed = 0

    def find(self, request: Request) -> Answer | None:
        """The recorded answer, if there is one."""
        return self._known.get(self._key(request))

    def compute(self, request: Request) -> Answer:
        """The answer, computed and recorded."""
        key = self._key(request)
        if request.path.endswith("value:compute"):
            parts = _parts_of(request.json().get("expression", {}))
            if parts is not None:
                return self._by_place(request, parts)
        answer = self._computed(request)
        if bytes(answer.response.body).startswith(b"\x93NUMPY"):
            answer.response = replace(answer.response, body=_constant(bytes(answer.response.body)))
        self._known[key] = answer
        return answer

    def _computed(self, request: Request) -> Answer:
        self.computed += 1
        try:
            response = dispatch(self._service, request)
        except ServiceError as error:
            response = error_response(error.code, error.message, status=error.status)
        return Answer(response, request.account.bands, request.account.scenes)

    def _key(self, request: Request) -> bytes:
        """Requests of one key have one answer: their exact bytes, for pixels only their form."""
        path, body = request.path, request.body
        if path.endswith(("image:computePixels", "/thumbnails")) or (path.endswith(":getPixels") and body):
            if path.endswith(":getPixels"):
                path = path.rpartition("/")[0]
            body = _form_of(body)
        return hashlib.sha256(path.encode() + b"\n" + body).digest()

    def _by_place(self, request: Request, parts: dict[str, _Places]) -> Answer:
        found = {
            name: [self._of_place(request, places, item) for item in places.elements] for name, places in parts.items()
        }
        texts = {name: "[" + ",".join([text for text, _ in answers]) + "]" for name, answers in found.items()}
        named = ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items())
        body = f'{{"result": {texts[""] if "" in texts else "{" + named + "}"}}}'
        return Answer(Response(body=body.encode()), 0, sum(used for answers in found.values() for _, used in answers))

    def _of_place(self, request: Request, places: _Places, element: Any) -> tuple[str, int]:
        """The answer of the first place that fell into the same of the pool's bins, which the place alone decides, as
        JSON, and how many scenes the service looks at for it.
        """
        numbers = _numbers_of(element)
        pool = self._pools.setdefault(f"{places.function} {numbers.get('start')} {numbers.get('end')}", {})
        moment = float(numbers.get("time", 0.0))
        digest = hashlib.sha256(json.dumps(element, sort_keys=True).encode()).digest()
        number = int.from_bytes(digest[:4], "little") % pool_places
        if number not in pool:
            body = json.dumps({"expression": places.alone(element)}).encode()
            account = Account()
            single = Request(
                method="POST", path=request.path, query={}, headers=request.headers, body=body, account=account
            )
            self.computed += 1
            value = json.loads(bytes(dispatch(self._service, single).body))["result"][0]
            pool.setdefault(number, _Recorded(value, moment, account.scenes))  # another thread may have been first
        return pool[number].at(moment), pool[number].scenes


class _Recorded:
    """What was answered about one place that asked for a moment, to be told of another moment. scenes: looked at."""

    def __init__(self, value: Any, moment: float, scenes: int) -> None:
        self.scenes = scenes
        times: list[float] = []
        self._texts = json.dumps(_without_times(value, times), separators=(",", ":")).split(f'"{_time}"')
        self._times = [time_ms - moment for time_ms in times]

    def at(self, moment: float) -> str:
        """The answer as JSON, every time in it as far from this moment as it was from its own."""
        first, *others = self._texts
        told = zip(self._times, others, strict=True)
        return first + "".join([f"{time_ms + moment}{text}" for time_ms, text in told])


@dataclass(frozen=True)
class _Places:
    """One question about a list of places. function: what is asked, by content."""

    function: str
    elements: tuple[Any, ...]
    definition: Any
    values: dict[str, Any]

    def alone(self, element: Any) -> Any:
        """The same question about one place."""
        arguments = {"baseAlgorithm": self.definition, "list": {"arrayValue": {"values": [element]}}}
        node = {"functionInvocationValue": {"functionName": "List.map", "arguments": arguments}}
        return {"result": "light", "values": {**self.values, "light": node}}


def _constant(body: bytes) -> bytes:
    """The same NPY file with one valid value in every band of an array of the catalogue."""
    pixels = np.load(io.BytesIO(body))
    for name in pixels.dtype.names or ():
        array, _, band = name.partition("__")
        if array in catalogue and band not in ("HH", "HV"):
            spec = catalogue[array]
            middle = (max(spec.stored_min, -1e4) + min(spec.stored_max, 1e4)) / 2
            pixels[name] = spec.classes[0].code if spec.classes else round(middle)
    stream = io.BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


def _parts_of(expression: Any) -> dict[str, _Places] | None:
    """The questions of an expression that maps functions over lists of places, by name; None for anything else."""
    values = expression.get("values", {})
    node = values.get(expression.get("result"), {})
    named = {"": node}
    if "dictionaryValue" in node:
        named = node["dictionaryValue"]["values"]
    found = {}
    for name, item in named.items():
        call = _follow(item, values).get("functionInvocationValue", {})
        if call.get("functionName") != "List.map":
            return None
        arguments = call["arguments"]
        places = _follow(arguments["list"], values).get("arrayValue", {}).get("values")
        if not places:
            return None
        elements = tuple(_resolved(element, values) for element in places)
        if not all(_is_feature(element) for element in elements):
            return None
        definition = _follow(arguments["baseAlgorithm"], values)
        digest = _digest(definition, values, {})
        found[name] = _Places(digest, elements, definition, values)
    return found


def _is_feature(element: Any) -> bool:
    return element.get("functionInvocationValue", {}).get("functionName") == "Feature"


def _follow(node: Any, values: dict[str, Any]) -> Any:
    while isinstance(node, dict) and "valueReference" in node:
        node = values[node["valueReference"]]
    return node


def _resolved(node: Any, values: dict[str, Any]) -> Any:
    node = _follow(node, values)
    if isinstance(node, dict):
        return {key: item if key == "constantValue" else _resolved(item, values) for key, item in node.items()}
    return [_resolved(item, values) for item in node] if isinstance(node, list) else node


def _digest(node: Any, values: dict[str, Any], known: dict[str, str]) -> str:
    """A hash of a graph's content, whatever its nodes are called."""

    def reference(name: str) -> str:
        if name not in known:
            known[name] = _digest(values[name], values, known)
        return known[name]

    def plain(item: Any) -> Any:
        if isinstance(item, list):
            return [plain(entry) for entry in item]
        if not isinstance(item, dict):
            return item
        return {
            key: reference(entry)
            if key in ("valueReference", "functionReference", "body") and isinstance(entry, str)
            else (entry if key == "constantValue" else plain(entry))
            for key, entry in item.items()
        }

    return hashlib.sha256(json.dumps(plain(node), sort_keys=True).encode()).hexdigest()


def _numbers_of(element: Any) -> dict[str, float]:
    metadata = element["functionInvocationValue"]["arguments"].get("metadata", {})
    entries = metadata.get("constantValue") or {
        key: item.get("constantValue") for key, item in metadata.get("dictionaryValue", {}).get("values", {}).items()
    }
    return {key: item for key, item in entries.items() if isinstance(item, int | float)}


def _without_times(value: Any, times: list[float]) -> Any:
    """The same with a mark in place of every time, in the order in which JSON tells them."""

    def mark(time_ms: float) -> str:
        times.append(time_ms)
        return _time

    if isinstance(value, list):
        return [_without_times(item, times) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, item in value.items():
        if key == "time" and isinstance(item, int | float):
            found[key] = mark(item)
        elif key == "times":
            found[key] = [mark(entry) for entry in item]
        else:
            found[key] = _without_times(item, times)
    return found


def _form_of(body: bytes) -> bytes:
    """A pixel request without numbers and names of assets; its grid's size, its bands and its functions remain."""
    # Whatever is here is done a hundred times a second beside the client that is measured: no regular expressions.
    start = body.find(b'"dimensions"')
    size = body[start : body.find(b"}", start)] if start >= 0 else b""
    first, *others = body.translate(None, b"0123456789.-").split(_text)
    ends = [text.index(b'"') for text in others]
    parts = [
        _asset + text[end:] if text.find(b"/", 0, end) >= 0 else _text + text
        for text, end in zip(others, ends, strict=True)
    ]
    form = first + b"".join(parts)
    form = form.replace(_load + b", " + _load, _loads)
    while (further := form.replace(_loads + b", " + _load, _loads).replace(_loads + b", " + _loads, _loads)) != form:
        form = further
    return size + form


class LightServer:
    """Serves HTTP on a loopback port: replays from the event loop, computing in threads."""

    def __init__(self, replays: Replays) -> None:
        self._replays = replays
        self._pool = ThreadPoolExecutor(2)
        self._rate = RateGate(per_second)
        self._in_flight = 0
        self._latency = (0.0, 0.0, 0.0)
        self._sample = b""
        self.gated = True
        self.counts = Counts()

    def serve(self, request: Request, send: Callable[[Response], None]) -> None:
        """Answer a request, now or later."""
        if request.path.startswith("/light/"):
            send(self._control(request))
            return
        metered = request.path.startswith("/v1/")
        if not metered:
            asyncio.get_running_loop().create_task(self._compute(request, send, time.monotonic(), metered=False))
            return
        started = time.monotonic()
        self._in_flight += 1
        counts = self.counts
        counts.peak = max(counts.peak, self._in_flight)
        if not request.path.endswith("/algorithms"):  # every client begins with that, and works on it for a second
            counts.first_s = counts.first_s or started
        if request.path.endswith("image:computePixels"):
            counts.pixels_from_s = counts.pixels_from_s or started
            self._sample = request.body
            plain = send

            def send(response: Response) -> None:
                if response.status == 200:
                    counts.pixels += 1
                    counts.pixels_to_s = max(counts.pixels_to_s, started)
                plain(response)

        if self.gated and (self._in_flight > concurrency or not self._rate.admit()):
            self._finish(send, error_response(429, rate_message))
            return
        answer = self._replays.find(request)
        if answer is None:
            asyncio.get_running_loop().create_task(self._compute(request, send, started, metered=True))
        else:
            self._later(send, answer, started)

    async def _compute(
        self, request: Request, send: Callable[[Response], None], started: float, *, metered: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        if not metered:
            answer = self._replays.find(request) or self._replays.compute(request)
            send(answer.response)
            return
        answer = await loop.run_in_executor(self._pool, self._replays.compute, request)
        self._later(send, answer, started)

    def _later(self, send: Callable[[Response], None], answer: Answer, started: float) -> None:
        base, band, scene = self._latency
        latency = base + band * answer.bands + scene * answer.scenes
        self.counts.pixel_latency_s += latency if answer.bands else 0.0
        wait = started + latency - time.monotonic()
        asyncio.get_running_loop().call_later(max(0.0, wait), self._finish, send, answer.response)

    def _finish(self, send: Callable[[Response], None], response: Response) -> None:
        self._in_flight -= 1
        self.counts.statuses[response.status] += 1
        self.counts.nbytes += len(bytes(response.body))
        self.counts.last_s = time.monotonic()
        send(response)

    def _control(self, request: Request) -> Response:
        if request.path == "/light/reset":
            query = {key: float(value) for key, value in request.query.items()}
            self._latency = tuple(query.get(name, 0.0) / 1000 for name in ("latency_ms", "band_ms", "scene_ms"))  # type: ignore[assignment]
            self.gated = bool(query.get("gated", 1.0))
            self.counts, self._rate = Counts(computed=self._replays.computed), RateGate(per_second)
        if request.path == "/light/sample":
            return Response(body=self._sample)
        counts = self.counts
        return json_response(
            {
                "requests": sum(counts.statuses.values()),
                "statuses": {str(key): value for key, value in counts.statuses.items()},
                "bytes": counts.nbytes,
                "peak_in_flight": counts.peak,
                "computed": self._replays.computed - counts.computed,
                "seconds": counts.last_s - counts.first_s,
                "pixel_requests": counts.pixels,
                "pixel_seconds": counts.pixels_to_s - counts.pixels_from_s,
                "pixel_latency_s": counts.pixel_latency_s / max(1, counts.pixels),
            }
        )


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with Content-Length, as much as the clients here need."""

    def __init__(self, server: LightServer) -> None:
        self._server = server
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            length = int(headers.get("content-length", 0))
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            method, target, _ = lines[0].split(" ", 2)
            split = urlsplit(target)
            request = Request(
                method=method,
                path=unquote(split.path),
                query=dict(parse_qsl(split.query)),
                headers=headers,
                body=body,
            )
            self._server.serve(request, self._send)

    def _send(self, response: Response) -> None:
        body = bytes(response.body)  # type: ignore[arg-type]
        head = f"HTTP/1.1 {response.status} {reasons.get(response.status, 'Unknown')}\r\n"
        head += f"Content-Type: {response.content_type}\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        if not self._transport.is_closing():
            self._transport.write(head.encode() + b"\r\n" + body)


async def _run(port: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = LightServer(Replays(Path(folder)))
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: _Connection(server), "127.0.0.1", port, backlog=512)
        address = listening.sockets[0].getsockname()
        print(json.dumps({"url": f"http://{address[0]}:{address[1]}"}), flush=True)
        # The parent holds the other end of standard input; when that closes, this ends.
        await loop.run_in_executor(None, sys.stdin.read)
        listening.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_run(parser.parse_args().port))


if __name__ == "__main__":
    main()
