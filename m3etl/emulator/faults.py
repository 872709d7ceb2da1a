"""Scripted faults: which requests fail and how, the rate and concurrency gates, and the latency model.

The file is one JSON object; every key is optional:

    {"seed": 7,
     "rules": [{"path": "computePixels", "method": "POST", "calls": {"first": 2}, "status": 503}],
     "gates": {"concurrency": 40, "rate_per_s": 100},
     "latency": {"base_ms": 200, "per_band_ms": 1, "per_scene_ms": 5}}

A rule matches requests whose path contains `path` (or matches it as a glob, when it has a `*` or `?`). `calls` picks
among the matching requests, counted per rule from 1: "all" (default), or an object with one of `nth` (a number or a
list), `first` (1..n), `after` (n+1...), `every` (n, 2n, ...), `probability` (with the file's seed). The first rule
that picks a request acts on it. Actions:

    status, message      an error body in the service's form (message optional: the service's own text for the code)
    body                 with a status (200 without one): this text or JSON instead
    html                 the same with Content-Type text/html
    headers              added to the answer, also to a normal one, e.g. {"Retry-After": "2"}
    delay_ms             waits before anything else
    drop                 true: closes the connection unread; "after": carries the request out, then closes
    truncate             true (half) or a number of bytes: sends the full Content-Length but only so much of the body
    alter                carries the request out and changes what it answers, still with status 200. An object of
                         "set" (number per band name or glob: all its pixels), "dtype" (of every band), "rows" (only so
                         many), "length" (only so many bytes, with that Content-Length), "swap" (true: the answer to an
                         earlier request for pixels of the same bands and shape)
"""

from __future__ import annotations

import fnmatch
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m3etl.emulator.distort import Alteration, Distorter
from m3etl.emulator.messages import Account, Response, error_response, json_response, rate_message
from m3etl.errors import InputError

_dtypes = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
default_messages = {
    429: rate_message,
    500: "An internal error has occurred (request fault-injected).",
    503: "Earth Engine capacity exceeded.",
    504: "Deadline exceeded.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Which of the matching requests a rule picks; exactly one criterion, or none for all."""

    nth: frozenset[int] | None = None
    first: int | None = None
    after: int | None = None
    every: int | None = None
    probability: float | None = None

    def picks(self, count: int, chance: float) -> bool:
        """Whether the `count`-th matching request (from 1) is picked; `chance` is uniform in [0, 1)."""
        if self.nth is not None:
            return count in self.nth
        if self.first is not None:
            return count <= self.first
        if self.after is not None:
            return count > self.after
        if self.every is not None:
            return count % self.every == 0
        return self.probability is None or chance < self.probability


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One scripted fault; see the module's text for the meaning of each field."""

    path: str
    method: str | None = None
    calls: Calls = field(default_factory=Calls)
    status: int | None = None
    message: str | None = None
    body: Any = None
    html: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_ms: float = 0.0
    drop: bool | str = False
    truncate: bool | int = False
    alter: Alteration | None = None

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule is about this request."""
        if self.method is not None and self.method != method:
            return False
        if "*" in self.path or "?" in self.path:
            return fnmatch.fnmatchcase(path, self.path)
        return self.path in path

    def answer(self) -> Response | None:
        """The scripted response; None where the request is carried out normally."""
        if self.html is not None:
            return Response(status=self.status or 200, body=self.html.encode(), content_type="text/html; charset=UTF-8")
        if isinstance(self.body, str):
            return Response(status=self.status or 200, body=self.body.encode())
        if self.body is not None:
            return json_response(self.body, status=self.status or 200)
        if self.status is None:
            return None
        message = self.message or default_messages.get(self.status, f"Scripted fault {self.status}.")
        return error_response(self.status, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The least time a request takes: base + per_band x bands + per_scene x input scenes, in milliseconds."""

    base_ms: float = 0.0
    per_band_ms: float = 0.0
    per_scene_ms: float = 0.0

    def seconds(self, account: Account) -> float:
        """The modelled duration of a request that touched so many bands and scenes."""
        return (self.base_ms + self.per_band_ms * account.bands + self.per_scene_ms * account.scenes) / 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Everything a faults file says."""

    rules: tuple[Rule, ...] = ()
    seed: int = 0
    concurrency: int | None = None
    rate_per_s: float | None = None
    latency: Latency = field(default_factory=Latency)


class RateGate:
    """A token bucket of one second's worth: `admit` says whether a request may pass now."""

    def __init__(self, rate_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate_per_s
        self._size = max(1.0, rate_per_s)
        self._tokens = self._size
        self._clock = clock
        self._last_s = clock()
        self._lock = threading.Lock()

    def admit(self) -> bool:
        """Takes a token; False when none is left."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._size, self._tokens + (now - self._last_s) * self._rate)
            self._last_s = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


class Faults:
    """A fault plan in action: counts requests per rule, holds the gates, and alters answers where a rule says so.
    Thread-safe.
    """

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self.distorter = Distorter() if any(rule.alter for rule in plan.rules) else None
        self._lock = threading.Lock()
        self._counts = [0] * len(plan.rules)
        self._random = random.Random(plan.seed)
        self._rate = RateGate(plan.rate_per_s) if plan.rate_per_s is not None else None

    def refuses(self, in_flight: int) -> bool:
        """Whether a gate turns the request away; `in_flight` counts the request itself."""
        if self.plan.concurrency is not None and in_flight > self.plan.concurrency:
            return True
        return self._rate is not None and not self._rate.admit()

    def pick(self, method: str, path: str) -> tuple[int, Rule] | None:
        """The rule that acts on this request and its position in the file; every matching rule counts the request."""
        if not self.plan.rules:
            return None
        picked = None
        with self._lock:
            for index, rule in enumerate(self.plan.rules):
                if not rule.matches(method, path):
                    continue
                self._counts[index] += 1
                chance = self._random.random() if rule.calls.probability is not None else 0.0
                if picked is None and rule.calls.picks(self._counts[index], chance):
                    picked = (index, rule)
        return picked


def read_faults(path: Path) -> FaultPlan:
    """Reads a faults file. Raises InputError that lists everything wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the faults file {path}: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"The faults file {path} is not JSON: {error}.") from None
    try:
        return parse_faults(value)
    except InputError as error:
        raise InputError(f"The faults file {path} is not valid: {error.message}", hint=error.hint) from None


def parse_faults(value: Any) -> FaultPlan:
    """The plan of a parsed faults file. Raises InputError that lists everything wrong with it."""
    check = _Check()
    top = check.table(value, "file", {"seed", "rules", "gates", "latency"})
    rules = top.get("rules", [])
    if not isinstance(rules, list):
        check.wrong("rules", "a list", rules)
        rules = []
    gates = check.table(top.get("gates", {}), "gates", {"concurrency", "rate_per_s"})
    latency = check.table(top.get("latency", {}), "latency", {"base_ms", "per_band_ms", "per_scene_ms"})
    plan = FaultPlan(
        rules=tuple(_parse_rule(check, rule, f"rules[{index}]") for index, rule in enumerate(rules)),
        seed=check.whole(top.get("seed", 0), "seed", least=0) or 0,
        concurrency=check.whole(gates.get("concurrency"), "gates.concurrency", least=1),
        rate_per_s=check.number(gates.get("rate_per_s"), "gates.rate_per_s", above=0.0),
        latency=Latency(**{key: check.number(latency[key], f"latency.{key}") or 0.0 for key in latency}),
    )
    check.finish()
    return plan


def _parse_rule(check: _Check, value: Any, name: str) -> Rule:
    actions = {"status", "body", "html", "headers", "delay_ms", "drop", "truncate", "alter"}
    table = check.table(value, name, {"path", "method", "calls", "message"} | actions)
    path = table.get("path")
    if not isinstance(path, str) or not path:
        check.wrong(f"{name}.path", "a non-empty text", path)
    if not actions & table.keys():
        check.problems.append(f"{name}: needs one of {', '.join(sorted(actions))}")
    if "message" in table and "status" not in table:
        check.problems.append(f"{name}.message: needs a status")
    status = check.whole(table.get("status"), f"{name}.status", least=200, most=599)
    headers = table.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(item, str) for item in headers.values()):
        check.wrong(f"{name}.headers", "an object of texts", headers)
        headers = {}
    drop = table.get("drop", False)
    if drop not in (True, False, "before", "after"):
        check.wrong(f"{name}.drop", 'true, false, "before" or "after"', drop)
        drop = False
    truncate = table.get("truncate", False)
    if not isinstance(truncate, bool):
        truncate = check.whole(truncate, f"{name}.truncate", least=0) or 0
    return Rule(
        path=str(path),
        method=check.text(table.get("method"), f"{name}.method"),
        calls=_parse_calls(check, table.get("calls", "all"), f"{name}.calls"),
        status=status,
        message=check.text(table.get("message"), f"{name}.message"),
        body=table.get("body"),
        html=check.text(table.get("html"), f"{name}.html"),
        headers=headers,
        delay_ms=check.number(table.get("delay_ms", 0), f"{name}.delay_ms") or 0.0,
        drop=drop,
        truncate=truncate,
        alter=_parse_alteration(check, table["alter"], f"{name}.alter") if "alter" in table else None,
    )


def _parse_alteration(check: _Check, value: Any, name: str) -> Alteration:
    table = check.table(value, name, {"set", "dtype", "rows", "length", "swap"})
    if not table:
        check.problems.append(f"{name}: needs one of set, dtype, rows, length, swap")
    values = table.get("set", {})
    if not isinstance(values, dict) or not all(isinstance(item, int | float) for item in values.values()):
        check.wrong(f"{name}.set", "an object of numbers", values)
        values = {}
    dtype = check.text(table.get("dtype"), f"{name}.dtype")
    if dtype is not None and dtype not in _dtypes:
        check.wrong(f"{name}.dtype", f"one of {', '.join(_dtypes)}", dtype)
    if not isinstance(table.get("swap", False), bool):
        check.wrong(f"{name}.swap", "true or false", table["swap"])
    return Alteration(
        values=values,
        dtype=dtype,
        rows=check.whole(table.get("rows"), f"{name}.rows", least=0),
        length=check.whole(table.get("length"), f"{name}.length", least=0),
        swap=table.get("swap") is True,
    )


def _parse_calls(check: _Check, value: Any, name: str) -> Calls:
    if value == "all":
        return Calls()
    table = check.table(value, name, {"nth", "first", "after", "every", "probability"})
    if len(table) != 1:
        check.problems.append(f'{name}: needs "all" or exactly one of nth, first, after, every, probability')
        return Calls()
    if "nth" in table:
        numbers = table["nth"] if isinstance(table["nth"], list) else [table["nth"]]
        return Calls(nth=frozenset(check.whole(item, f"{name}.nth", least=1) or 1 for item in numbers))
    if "probability" in table:
        return Calls(probability=check.number(table["probability"], f"{name}.probability", most=1.0))
    return Calls(
        first=check.whole(table.get("first"), f"{name}.first", least=1),
        after=check.whole(table.get("after"), f"{name}.after", least=0),
        every=check.whole(table.get("every"), f"{name}.every", least=1),
    )


class _Check:
    """Gathers every problem of a faults file, so that one message names them all."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, name: str, wanted: str, found: Any) -> None:
        self.problems.append(f"{name}: expected {wanted}, found {json.dumps(found)}")

    def table(self, value: Any, name: str, keys: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(name, "an object", value)
            return {}
        for key in sorted(value.keys() - keys):
            self.problems.append(f"{name}: unknown key {key!r} (known: {', '.join(sorted(keys))})")
        return {key: item for key, item in value.items() if key in keys}

    def text(self, value: Any, name: str) -> str | None:
        if value is not None and not isinstance(value, str):
            self.wrong(name, "a text", value)
            return None
        return value

    def whole(self, value: Any, name: str, *, least: int, most: int | None = None) -> int | None:
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < least
            or (most is not None and value > most)
        ):
            self.wrong(name, f"a whole number >= {least}" + (f" and <= {most}" if most is not None else ""), value)
            return None
        return value

    def number(self, value: Any, name: str, *, above: float | None = None, most: float | None = None) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            self.wrong(name, "a number >= 0", value)
        elif above is not None and value <= above:
            self.wrong(name, f"a number > {above:g}", value)
        elif most is not None and value > most:
            self.wrong(name, f"a number <= {most:g}", value)
        else:
            return float(value)
        return None

    def finish(self) -> None:
        if self.problems:
            raise InputError(
                "\n  ".join(["found", *self.problems]), hint="See m3etl/emulator/faults.py for the format."
            )
