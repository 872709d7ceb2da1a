"""The request log: one JSON object per line and request."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from m3etl.errors import InputError


class RequestLog:
    """Appends one line per request to `path`; does nothing when there is no path. Thread-safe.

    Fields: time (UTC), method, path (without query), status (0: connection dropped), bytes (of the body), in_flight
    (requests being served when this one began, itself included), eecu_s, seconds, bands, scenes, and where there is
    one: fault (position of the rule that acted) and digest (of the request's body: the same request again has the
    same).
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"Cannot write the request log {path}: {error.strerror}.") from None

    def write(self, **fields: Any) -> None:
        """Appends one line; `time` is added, fields that are None are left out."""
        if self._file is None:
            return
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = {"time": stamp, **{key: value for key, value in fields.items() if value is not None}}
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        with self._lock:
            if not self._file.closed:
                self._file.write(line)
                self._file.flush()

    def close(self) -> None:
        """Closes the file; later lines are dropped."""
        if self._file is not None:
            with self._lock:
                self._file.close()

    def __enter__(self) -> RequestLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
