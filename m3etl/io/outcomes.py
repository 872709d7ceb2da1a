"""What became of one request to Earth Engine: a closed list of kinds, each with one reaction, and how an error is
told apart.

Codes and messages: https://developers.google.com/earth-engine/guides/usage and the errors people report.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Outcome of a request. The reaction to each is in `reactions`."""

    OK = "ok"
    RATE = "rate"
    CAPACITY = "capacity"
    TRANSIENT = "transient"
    NETWORK = "network"
    DEADLINE = "deadline"  # no answer in time: the service is slow, or this is much to ask for
    UNREACHABLE = "unreachable"  # no connection came about, so it is no fault of what was to be asked
    WRONG = "wrong"
    TOO_LARGE = "too_large"
    DETERMINISTIC = "deterministic"
    NO_DATA = "no_data"
    SOURCE_CHANGED = "source_changed"
    AUTH = "auth"
    QUOTA = "quota"  # the project's own cap on a day's or a month's compute
    CANCELLED = "cancelled"  # an export task that somebody ended


class Reaction(StrEnum):
    """What is done with the request: retried (its own fault counts, the service's hardly), split, given up, or the
    run stops.
    """

    WAIT = "wait"
    RETRY = "retry"
    SPLIT = "split"
    GIVE_UP = "give_up"
    STOP = "stop"


reactions: Mapping[Kind, Reaction] = {
    Kind.RATE: Reaction.WAIT,
    Kind.CAPACITY: Reaction.RETRY,
    Kind.TRANSIENT: Reaction.RETRY,
    Kind.NETWORK: Reaction.RETRY,
    Kind.DEADLINE: Reaction.RETRY,
    Kind.UNREACHABLE: Reaction.WAIT,
    Kind.WRONG: Reaction.RETRY,
    Kind.TOO_LARGE: Reaction.SPLIT,
    Kind.DETERMINISTIC: Reaction.GIVE_UP,
    Kind.NO_DATA: Reaction.SPLIT,
    Kind.SOURCE_CHANGED: Reaction.SPLIT,
    Kind.AUTH: Reaction.STOP,
    Kind.QUOTA: Reaction.STOP,
    Kind.CANCELLED: Reaction.GIVE_UP,
}
retry_may_help = frozenset(
    {
        Kind.RATE,
        Kind.CAPACITY,
        Kind.TRANSIENT,
        Kind.NETWORK,
        Kind.DEADLINE,
        Kind.UNREACHABLE,
        Kind.WRONG,
        Kind.AUTH,
        Kind.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed request. status: HTTP code, 0 where there was none; asset: the id that is not there (source_changed)."""

    kind: Kind
    message: str
    status: int = 0
    retry_after_s: float | None = None
    asset: str = ""


class RequestFailed(Exception):  # noqa: N818 - carries an outcome; most outcomes are handled, not errors of ours
    """Raised by a session in place of the vendor's exception; `failure` says what happened."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.message}")
        self.failure = failure


minute_s = 60.0
_per_minute = re.compile(r"\bper minute\b", re.IGNORECASE)
_missing_asset = re.compile(r"asset '([^']+)' (?:not found|does not exist)", re.IGNORECASE)
_patterns: tuple[tuple[re.Pattern[str], Kind], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"eecu_usage_time", Kind.QUOTA),
        (r"too many requests|quota exceeded for quota metric|too many concurrent|rate ?limit", Kind.RATE),
        (r"capacity exceeded|memory capacity", Kind.CAPACITY),
        (
            r"total request size|must be less than or equal to|user memory limit exceeded|computation timed out",
            Kind.TOO_LARGE,
        ),
        (r"request payload size exceeds|too large|aborted after accumulating", Kind.TOO_LARGE),
        (r"image with no bands|is required and may not be null|no band named", Kind.NO_DATA),
        (r"internal error", Kind.TRANSIENT),
    )
)


def classify(status: int, message: str, headers: Mapping[str, str] | None = None) -> Failure:
    """The kind of an HTTP error answer: some codes decide by themselves, 400 and 403 by the message."""
    kind = _kind(status, message)
    found = Failure(
        kind=kind,
        message=_short(message) or f"HTTP {status}",
        status=status,
        retry_after_s=_pause_s(kind, message, headers or {}),
    )
    missing = _missing_asset.search(message)
    if missing and status in (400, 403, 404):
        asset = missing.group(1).removeprefix("projects/earthengine-public/assets/")
        return Failure(kind=Kind.SOURCE_CHANGED, message=found.message, status=status, asset=asset)
    return found


def _kind(status: int, message: str) -> Kind:
    by_message = next((kind for pattern, kind in _patterns if pattern.search(message)), None)
    if by_message is Kind.QUOTA:
        return Kind.QUOTA
    if status == 429:
        return Kind.RATE
    if status == 503:
        return Kind.CAPACITY
    if status in (408, 499) or status >= 500:
        return Kind.TRANSIENT
    if status == 401 or (status == 403 and by_message is not Kind.RATE):
        return Kind.AUTH
    if status == 413:
        return Kind.TOO_LARGE
    return by_message or Kind.DETERMINISTIC


def _pause_s(kind: Kind, message: str, headers: Mapping[str, str]) -> float | None:
    """What the service asks to wait. A quota per minute that is used up stays so until its minute ends, said or not."""
    asked = retry_after(headers)
    return minute_s if asked is None and kind is Kind.RATE and _per_minute.search(message) else asked


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header (a number or an HTTP date), None without one."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _short(message: str) -> str:
    return " ".join(message.split())[:300]
