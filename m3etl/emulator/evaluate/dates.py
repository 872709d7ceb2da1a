"""Date and DateRange algorithms: UTC unless a time zone is named, ranges half-open, lengths of months and years
averaged.
"""

from __future__ import annotations

import calendar
import datetime as dt
import math
import re
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.values import DateRangeValue, DateValue
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

DAY = 86_400_000.0
# Average lengths in milliseconds; a year is 365.2425 days.
UNITS = {
    "year": 365.2425 * DAY,
    "month": 365.2425 / 12 * DAY,
    "week": 7 * DAY,
    "day": DAY,
    "hour": 3_600_000.0,
    "minute": 60_000.0,
    "second": 1000.0,
}
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def unit_of(text: str) -> str:
    """The singular name of a unit of time."""
    unit = text.lower().rstrip("s")
    if unit not in UNITS:
        raise invalid(f"Date: Unknown unit '{text}'; one of {', '.join(UNITS)}.")
    return unit


def zone(name: str | None) -> dt.tzinfo:
    """A time zone by its IANA name; None is UTC."""
    if name is None or name in ("UTC", "GMT", "Z"):
        return dt.UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise invalid(f"Date: Unknown time zone '{name}'.") from error


def to_datetime(millis: float, time_zone: str | None = None) -> dt.datetime:
    """A datetime in a time zone."""
    return (EPOCH + dt.timedelta(milliseconds=millis)).astimezone(zone(time_zone))


def to_millis(moment: dt.datetime) -> float:
    """Milliseconds since the epoch."""
    return (moment - EPOCH) / dt.timedelta(milliseconds=1)


def parse_text(text: str, time_zone: str | None = None) -> float:
    """Milliseconds of an ISO date or time, or of a year with a day of year (1996-001)."""
    text = text.strip()
    ordinal = re.fullmatch(r"(\d{4})-(\d{3})", text)
    if ordinal is not None:
        start = dt.datetime(int(ordinal[1]), 1, 1, tzinfo=zone(time_zone))
        return to_millis(start + dt.timedelta(days=int(ordinal[2]) - 1))
    short = re.fullmatch(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?", text)
    try:
        if short is not None:
            year, month, day = (int(part) if part else 1 for part in short.groups())
            return to_millis(dt.datetime(year, month, day, tzinfo=zone(time_zone)))
        moment = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise invalid(f"Date: Bad date/time '{text}'.") from error
    return to_millis(moment if moment.tzinfo is not None else moment.replace(tzinfo=zone(time_zone)))


def to_date(value: Any, time_zone: str | None = None) -> DateValue:
    """A date from a date, milliseconds, text or its getInfo form. Raises TypeError for anything else."""
    if isinstance(value, DateValue):
        return value
    if isinstance(value, bool):
        raise TypeError("not a date")
    if isinstance(value, int | float):
        return DateValue(millis=value)
    if isinstance(value, str):
        return DateValue(millis=parse_text(value, time_zone))
    if isinstance(value, dict) and value.get("type") == "Date":
        return DateValue(millis=value["value"])
    if isinstance(value, DateRangeValue):
        return DateValue(millis=value.start)
    raise TypeError("not a date")


def shift(millis: float, count: float, unit: str, time_zone: str | None = None) -> float:
    """The time `count` units later; whole months and years keep the day of the month where it exists."""
    unit = unit_of(unit)
    if unit not in ("year", "month"):
        return millis + count * UNITS[unit]
    whole = math.floor(count)
    moment = to_datetime(millis, time_zone)
    month = moment.month - 1 + whole * (12 if unit == "year" else 1)
    year, month = moment.year + month // 12, month % 12 + 1
    if not dt.MINYEAR <= year <= dt.MAXYEAR:
        raise invalid(f"Date.advance: The year {year} is out of range.")
    day = min(moment.day, calendar.monthrange(year, month)[1])
    return to_millis(moment.replace(year=year, month=month, day=day)) + (count - whole) * UNITS[unit]


def start_of(moment: dt.datetime, unit: str) -> dt.datetime:
    """The start of the calendar unit that a time lies in; weeks begin on Monday."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "year":
        return midnight.replace(month=1, day=1)
    if unit == "month":
        return midnight.replace(day=1)
    if unit == "week":
        return midnight - dt.timedelta(days=moment.weekday())
    if unit == "day":
        return midnight
    if unit == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    return moment.replace(second=0, microsecond=0) if unit == "minute" else moment.replace(microsecond=0)


def field_of(moment: dt.datetime, unit: str) -> int:
    """A calendar field: month and day from 1, ISO week, hours and below from 0."""
    return moment.isocalendar().week if unit == "week" else int(getattr(moment, unit))


# Joda patterns, longest first, with what they print.
_JODA = re.compile(r"'([^']*)'|Y+|y+|M+|D+|d+|H+|h+|m+|s+|S+|E+|w+|a|Z+|e+")


def format_date(millis: float, pattern: str | None = None, time_zone: str | None = None) -> str:
    """Text of a date in a Joda-Time pattern; without one ISO 8601 to the second."""
    moment = to_datetime(millis, time_zone)
    return _JODA.sub(lambda match: _joda(match, moment), pattern or "YYYY-MM-dd'T'HH:mm:ss")


def _joda(match: re.Match[str], moment: dt.datetime) -> str:
    token = match.group(0)
    if token.startswith("'"):
        return match.group(1) or "'"
    letter, width = token[0], len(token)
    if letter in "Yy":
        return f"{moment.year % 100:02d}" if width == 2 else f"{moment.year:0{width}d}"
    if letter == "M" and width >= 3:
        name = calendar.month_name[moment.month]
        return name if width > 3 else name[:3]
    if letter == "E":
        name = calendar.day_name[moment.weekday()]
        return name if width > 3 else name[:3]
    if letter == "a":
        return "AM" if moment.hour < 12 else "PM"
    if letter == "S":
        return f"{moment.microsecond:06d}"[:width].ljust(width, "0")
    if letter == "Z":
        offset = moment.strftime("%z")
        return offset if width == 1 else f"{offset[:3]}:{offset[3:]}"
    numbers = {
        "M": moment.month,
        "D": moment.timetuple().tm_yday,
        "d": moment.day,
        "H": moment.hour,
        "h": (moment.hour - 1) % 12 + 1,
        "m": moment.minute,
        "s": moment.second,
        "w": moment.isocalendar().week,
        "e": moment.isoweekday(),
    }
    return f"{numbers[letter]:0{width}d}"


_STRPTIME = {
    "Y": "%Y", "y": "%Y", "M": "%m", "d": "%d", "D": "%j", "H": "%H", "h": "%I", "m": "%M", "s": "%S", "S": "%f",
    "a": "%p",
}  # fmt: skip


@algorithm("Date")
def date(context: Context, value: Any, time_zone: str | None) -> DateValue:
    try:
        return to_date(value, time_zone)
    except TypeError:
        raise invalid(f"Date: Cannot make a date of {value!r}.") from None


@algorithm("Date.advance")
def date_advance(context: Context, date: DateValue, delta: float, unit: str, time_zone: str | None) -> DateValue:
    return DateValue(millis=shift(date.millis, delta, unit, time_zone))


@algorithm("Date.difference")
def date_difference(context: Context, date: DateValue, start: DateValue, unit: str) -> float:
    return (date.millis - start.millis) / UNITS[unit_of(unit)]


@algorithm("Date.format")
def date_format(context: Context, date: DateValue, format: str | None, time_zone: str | None) -> str:
    return format_date(date.millis, format, time_zone)


@algorithm("Date.fromYMD")
def date_from_ymd(context: Context, year: int, month: int, day: int, time_zone: str | None) -> DateValue:
    try:
        return DateValue(millis=to_millis(dt.datetime(year, month, day, tzinfo=zone(time_zone))))
    except ValueError as error:
        raise invalid(f"Date.fromYMD: {error}.") from error


@algorithm("Date.get")
def date_get(context: Context, date: DateValue, unit: str, time_zone: str | None) -> int:
    return field_of(to_datetime(date.millis, time_zone), unit_of(unit))


@algorithm("Date.getFraction")
def date_get_fraction(context: Context, date: DateValue, unit: str, time_zone: str | None) -> float:
    unit = unit_of(unit)
    start = to_millis(start_of(to_datetime(date.millis, time_zone), unit))
    return (date.millis - start) / (shift(start, 1, unit, time_zone) - start)


@algorithm("Date.getRange")
def date_get_range(context: Context, date: DateValue, unit: str, time_zone: str | None) -> DateRangeValue:
    unit = unit_of(unit)
    start = to_millis(start_of(to_datetime(date.millis, time_zone), unit))
    return DateRangeValue(start=start, end=shift(start, 1, unit, time_zone))


@algorithm("Date.getRelative")
def date_get_relative(context: Context, date: DateValue, unit: str, in_unit: str, time_zone: str | None) -> int:
    unit, in_unit = unit_of(unit), unit_of(in_unit)
    moment = to_datetime(date.millis, time_zone)
    start = start_of(moment, in_unit)
    if unit == "month":
        return (moment.year - start.year) * 12 + moment.month - start.month
    elapsed = moment.replace(tzinfo=None) - start.replace(tzinfo=None)
    return int(elapsed / dt.timedelta(milliseconds=UNITS[unit]))


@algorithm("Date.millis")
def date_millis(context: Context, date: DateValue) -> float:
    return date.millis


@algorithm("Date.parse")
def date_parse(context: Context, format: str, date: str, time_zone: str | None) -> DateValue:
    pattern = re.sub(r"'([^']*)'|([A-Za-z])\2*", lambda m: m[1] if m[2] is None else _STRPTIME.get(m[2], m[0]), format)
    try:
        moment = dt.datetime.strptime(date, pattern)
    except ValueError as error:
        raise invalid(f"Date.parse: Invalid format: '{date}' does not match '{format}'.") from error
    return DateValue(millis=to_millis(moment.replace(tzinfo=zone(time_zone))))


@algorithm("Date.unitRatio")
def date_unit_ratio(context: Context, numerator: str, denominator: str) -> float:
    return UNITS[unit_of(numerator)] / UNITS[unit_of(denominator)]


@algorithm("Date.update")
def date_update(
    context: Context,
    date: DateValue,
    year: int | None,
    month: int | None,
    day: int | None,
    hour: int | None,
    minute: int | None,
    second: float | None,
    time_zone: str | None,
) -> DateValue:
    fields = {"year": year, "month": month, "day": day, "hour": hour, "minute": minute}
    changes = {name: value for name, value in fields.items() if value is not None}
    moment = to_datetime(date.millis, time_zone).replace(**changes)  # type: ignore[arg-type]
    if second is not None:
        moment = moment.replace(second=0, microsecond=0) + dt.timedelta(seconds=second)
    return DateValue(millis=to_millis(moment))


@algorithm("DateRange")
def date_range(context: Context, start: Any, end: Any, time_zone: str | None) -> DateRangeValue:
    try:
        first = to_date(start, time_zone).millis
        return DateRangeValue(start=first, end=first + 1 if end is None else to_date(end, time_zone).millis)
    except TypeError:
        raise invalid(f"DateRange: Cannot make a date range of {start!r} and {end!r}.") from None


@algorithm("DateRange.unbounded")
def date_range_unbounded(context: Context) -> DateRangeValue:
    return DateRangeValue(start=-math.inf, end=math.inf)


@algorithm("DateRange.start")
def date_range_start(context: Context, date_range: DateRangeValue) -> DateValue:
    return DateValue(millis=date_range.start)


@algorithm("DateRange.end")
def date_range_end(context: Context, date_range: DateRangeValue) -> DateValue:
    return DateValue(millis=date_range.end)


@algorithm("DateRange.isEmpty")
def date_range_is_empty(context: Context, date_range: DateRangeValue) -> bool:
    return date_range.end <= date_range.start


@algorithm("DateRange.isUnbounded")
def date_range_is_unbounded(context: Context, date_range: DateRangeValue) -> bool:
    return math.isinf(date_range.start) and math.isinf(date_range.end)


@algorithm("DateRange.contains")
def date_range_contains(context: Context, date_range: DateRangeValue, other: Any) -> bool:
    if isinstance(other, DateRangeValue):
        return date_range.start <= other.start and other.end <= date_range.end
    try:
        return date_range.start <= to_date(other).millis < date_range.end
    except TypeError:
        raise invalid(f"DateRange.contains: {other!r} is neither a date nor a date range.") from None


@algorithm("DateRange.intersects")
def date_range_intersects(context: Context, date_range: DateRangeValue, other: DateRangeValue) -> bool:
    return date_range.start < other.end and other.start < date_range.end


@algorithm("DateRange.intersection")
def date_range_intersection(context: Context, date_range: DateRangeValue, other: DateRangeValue) -> DateRangeValue:
    return DateRangeValue(start=max(date_range.start, other.start), end=min(date_range.end, other.end))


@algorithm("DateRange.union")
def date_range_union(context: Context, date_range: DateRangeValue, other: DateRangeValue) -> DateRangeValue:
    return DateRangeValue(start=min(date_range.start, other.start), end=max(date_range.end, other.end))
