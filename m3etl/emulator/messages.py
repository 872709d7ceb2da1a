"""Requests and responses of the embedded Earth Engine, and the error body that Google's clients expect."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m3etl.emulator.model import ServiceError, invalid

json_type = "application/json; charset=UTF-8"

# HTTP code -> canonical status (google.rpc.Code).
canonical_status = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    411: "INVALID_ARGUMENT",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

# canonical status -> number, as used in the error of an operation (google/rpc/code.proto).
status_number = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}

rate_message = "Too Many Requests: Request was rejected because the request rate or concurrency limit was exceeded."


@dataclass(slots=True)
class Account:
    """What one request cost: CPU seconds (served as EECU-seconds), bands and input scenes, bytes evaluated; and whether
    somebody still waits for its answer.
    """

    eecu_s: float = 0.0
    bands: int = 0
    scenes: int = 0
    nbytes: int = 0
    is_wanted: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request: `path` is percent-decoded, header names are lower case, `query` has the last value per key."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    account: Account = field(default_factory=Account)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object ({} when empty). Raises ServiceError 400 for anything else."""
        if not self.body:
            return {}
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise invalid(f"Invalid JSON payload received. {error}") from None
        if not isinstance(value, dict):
            raise invalid(f"Invalid JSON payload received. Expected an object, found {type(value).__name__}.")
        return value


@dataclass(frozen=True, slots=True)
class FileSlice:
    """`length` bytes of a file from `start`, sent without loading them."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One HTTP response."""

    status: int = 200
    body: bytes | FileSlice = b""
    content_type: str = json_type
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON. NaN and infinities become the strings that protobuf's JSON mapping uses."""
    try:
        body = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        body = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return Response(status=status, body=body.encode(), headers=headers or {})


def error_response(code: int, message: str, *, status: str | None = None) -> Response:
    """The service's error body: {"error": {"code", "message", "status"}}."""
    name = status or canonical_status.get(code, "UNKNOWN")
    return json_response({"error": {"code": code, "message": message, "status": name}}, status=code)


def failure(code: int, message: str) -> ServiceError:
    """A ServiceError with the canonical status of an HTTP code."""
    return ServiceError(code, canonical_status.get(code, "UNKNOWN"), message)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
