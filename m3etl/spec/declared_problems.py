"""What can be wrong with one `[[array]]` of a user's TOML file, with the line of its key. Nothing is built here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3etl.spec.modality import Transform
from m3etl.spec.program import Comparison, Window, is_reducer, reducer_names

_required = ("name", "asset", "bands", "dtype", "native_gsd_m")
_texts = ("name", "modality", "title", "asset", "kind", "values", "dtype", "units", "resampling", "window", "transform",
          "license", "notice", "label_family", "hook")  # fmt: skip
_numbers = ("fill", "scale", "offset", "source_scale", "source_offset", "valid_min", "valid_max", "native_gsd_m",
            "max_gap_days")  # fmt: skip
_others = ("bands", "reducers", "period", "filters", "masks", "no_data", "classes", "decibel", "target")
keys = (*_texts, *_numbers, *_others)
_dtypes = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
_unlimited = ("valid_min", "valid_max")  # may be infinite
_positive = ("native_gsd_m", "max_gap_days", "scale")
_without_hook = ("reducers", "period", "masks", "no_data", "decibel", "source_scale", "source_offset")
_class_reducers = ("mosaic", "first", "mode", "min", "max")
_name = re.compile(r"[a-z][a-z0-9_]{1,40}")
_band = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_hook = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")
_color = re.compile(r"#[0-9a-fA-F]{6}")
Problem = tuple[int, str]
# How an array that was built contradicts itself, and the key whose line says so.
_keys_of_contradictions = (
    ("scale must", "scale"), ("bands must", "bands"), ("an integer array", "dtype"), ("a float array", "fill"),
    ("fill", "fill"), ("classes need", "values"), ("two classes", "classes"), ("a single image", "kind"),
    ("source_scale", "source_scale"), ("the mask", "masks"), ("periods", "period"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One [[array]] of a file, with the lines of its keys."""

    values: Mapping[str, Any]
    lines: Mapping[str, int]
    first_line: int

    def at(self, key: str) -> int:
        """The line of a key, that of the [[array]] for one that is not there."""
        return self.lines.get(key, self.first_line)


def entries_of(text: str, tables: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """The [[array]] tables of a TOML text with the lines of their keys."""
    lines = text.splitlines()
    starts = [index for index, line in enumerate(lines) if line.replace(" ", "").startswith("[[array]]")]
    starts += [len(lines)] * (len(tables) + 1 - len(starts))
    entries = []
    for number, values in enumerate(tables):
        first, end = starts[number], starts[number + 1]
        found: dict[str, int] = {}
        for index in range(first, end):
            key = re.match(r"\s*\[*(?:array\.)?([A-Za-z_][A-Za-z0-9_]*)", lines[index])
            if key and key.group(1) != "array":
                found.setdefault(key.group(1), index + 1)
        entries.append(Entry(values, found, first + 1))
    return entries


def problems_of(entry: Entry) -> list[Problem]:
    """Everything that is wrong, with its line; what depends on a wrong type is not looked at."""
    return list(_type_problems(entry)) or [
        *_choice_problems(entry),
        *_number_problems(entry),
        *_band_problems(entry),
        *_reducer_problems(entry),
        *_filter_problems(entry),
        *_mask_problems(entry),
        *_class_problems(entry),
        *_hook_problems(entry),
    ]


def contradictions(entry: Entry, message: str) -> list[Problem]:
    """The parts of the message of an array that contradicts itself, each at the key that it is about."""
    what, found, parts = message.partition(" is declared wrongly: ")
    if not found:
        return [(entry.first_line, message)]
    return [(entry.at(_key_of(entry, part)), f"{what}{found}{part}") for part in parts.split("; ")]


def _key_of(entry: Entry, part: str) -> str:
    if "cannot hold" in part:
        return next((key for key in ("valid_max", "valid_min", "classes", "dtype") if key in entry.values), "dtype")
    return next((key for start, key in _keys_of_contradictions if part.startswith(start)), "")


def _type_problems(entry: Entry) -> Iterator[Problem]:
    values = entry.values
    for key in values:
        if key not in keys:
            yield entry.at(key), f"unknown key {key!r}; known: {', '.join(keys)}"
    for key in _required:
        if key not in values:
            yield entry.first_line, f"the key {key!r} is missing"
    for key in _texts:
        if key in values and not (isinstance(values[key], str) and (values[key].strip() or key == "notice")):
            yield entry.at(key), f"{key} must be text, found {values[key]!r}"
    for key in _numbers:
        if key in values and not _is_number(values[key]):
            yield entry.at(key), f"{key} must be a number, found {values[key]!r}"
    for key in ("decibel", "target"):
        if key in values and not isinstance(values[key], bool):
            yield entry.at(key), f"{key} must be true or false, found {values[key]!r}"
    if "bands" in values and not _is_bands(values["bands"]):
        yield entry.at("bands"), "bands must be a list of band names, or a table stored = 'source'"
    if "reducers" in values and not _is_texts(values["reducers"]):
        yield entry.at("reducers"), "reducers must be a list of names such as ['mean', 'p90']"
    if not _are_numbers(values.get("no_data", [])):
        yield entry.at("no_data"), f"no_data must be a list of numbers, found {values['no_data']!r}"
    yield from _table_problems(entry, "filters", "property", {"property", *Comparison})
    yield from _table_problems(entry, "masks", "band", {"band", "bits", "values", "at_least", "at_most"})
    yield from _table_problems(entry, "classes", "code", {"code", "name", "color"})


def _table_problems(entry: Entry, key: str, first: str, known: set[str]) -> Iterator[Problem]:
    tables, line = entry.values.get(key, []), entry.at(key)
    if not isinstance(tables, list) or not all(isinstance(item, Mapping) for item in tables):
        yield line, f"{key} must be a list of tables"
        return
    for item in tables:
        unknown = sorted(set(item) - known)
        if unknown:
            yield line, f"{key}: unknown key {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        elif first not in item:
            yield line, f"{key}: the key {first!r} is missing"


def _choice_problems(entry: Entry) -> Iterator[Problem]:
    values = entry.values
    for key in ("name", "modality"):
        if key in values and not _name.fullmatch(values[key]):
            yield entry.at(key), f"the {key} {values[key]!r} must be lower case letters, digits and _"
    choices: Mapping[str, Sequence[str]] = {
        "dtype": _dtypes,
        "kind": ("image", "collection"),
        "values": ("continuous", "classes"),
        "resampling": ("nearest", "bilinear"),
        "window": tuple(Window),
        "transform": tuple(Transform),
        "period": ("seasons", "months"),
    }
    for key, known in choices.items():
        if key in values and values[key] not in known:
            yield entry.at(key), f"{key} must be one of {', '.join(known)}, found {values[key]!r}"
    needed = {"seasons": "seasons", "months": "year"}.get(values.get("period", ""))
    if needed and values.get("window", "static") != needed:
        yield entry.at("period"), f"the period {values['period']!r} needs window = {needed!r}"


def _number_problems(entry: Entry) -> Iterator[Problem]:
    values = entry.values
    for key in _numbers:
        value = values.get(key)
        if value is None:
            continue
        if math.isnan(value) or (math.isinf(value) and key not in _unlimited):
            yield entry.at(key), f"{key} must be a finite number, found {value}"
        elif key in _positive and value <= 0:
            yield entry.at(key), f"{key} must be positive, found {value}"
        elif key == "fill" and value != int(value):
            yield entry.at(key), f"fill must be a whole number, found {value}"
    low, high = values.get("valid_min", -math.inf), values.get("valid_max", math.inf)
    if low >= high:
        yield entry.at("valid_min"), f"valid_min {low} must be below valid_max {high}"


def _band_problems(entry: Entry) -> Iterator[Problem]:
    bands = entry.values["bands"]
    if len(set(bands)) != len(bands):
        yield entry.at("bands"), f"bands must be unique, found {bands}"
    for name in bands:
        if not _band.fullmatch(name):
            yield entry.at("bands"), f"a stored band is named by letters, digits, _ . and -, found {name!r}"


def _reducer_problems(entry: Entry) -> Iterator[Problem]:
    values, line = entry.values, entry.at("reducers")
    reducers = values.get("reducers", [])
    for name in reducers:
        if not is_reducer(name):
            yield line, f"unknown reducer {name!r} (known: {', '.join(reducer_names)}, p00 to p99)"
        elif values.get("values") == "classes" and name not in _class_reducers:
            yield line, f"classes can't be reduced by {name!r}; use one of {', '.join(_class_reducers)}"
        elif name == "mosaic" and values.get("window") in ("year", "seasons"):
            yield line, f"many images of a {values['window']} need a reducer, mosaic would hide them"
    if len(set(reducers)) != len(reducers):
        yield line, f"reducers must be unique, found {reducers}"


def _filter_problems(entry: Entry) -> Iterator[Problem]:
    line = entry.at("filters")
    for item in entry.values.get("filters", []):
        if len(item) != 2 or not isinstance(item["property"], str):
            yield line, f"a filter has a property and one comparison, found {dict(item)}"
            continue
        comparison = next(key for key in item if key != "property")
        value = item[comparison]
        several = comparison == Comparison.ONE_OF
        if several != isinstance(value, list) or not all(_is_plain(one) for one in (value if several else [value])):
            what = "a list of texts or numbers" if several else "a text or a number"
            yield line, f"{comparison} compares with {what}, found {value!r}"


def _mask_problems(entry: Entry) -> Iterator[Problem]:
    line = entry.at("masks")
    for item in entry.values.get("masks", []):
        if not isinstance(item["band"], str):
            yield line, f"the band of a mask must be text, found {item['band']!r}"
        bits = item.get("bits", [])
        if not (isinstance(bits, list) and all(isinstance(bit, int) and not isinstance(bit, bool) for bit in bits)):
            yield line, f"bits must be a list of whole numbers, found {bits!r}"
        elif any(not 0 <= bit < 32 for bit in bits):
            yield line, f"bits must be between 0 and 31, found {bits}"
        if not _are_numbers(item.get("values", [])):
            yield line, f"the values of a mask must be a list of numbers, found {item['values']!r}"
        for key in ("at_least", "at_most"):
            if key in item and not _is_number(item[key]):
                yield line, f"{key} must be a number, found {item[key]!r}"


def _class_problems(entry: Entry) -> Iterator[Problem]:
    values, line = entry.values, entry.at("classes")
    if values.get("values") != "classes":
        if values.get("classes"):
            yield line, "a class table needs values = 'classes'"
        return
    if not values.get("classes"):
        yield entry.at("values"), "classes need a table: classes = [{ code = 1, name = 'water' }, ...]"
    for item in values.get("classes", []):
        if not (isinstance(item["code"], int) and not isinstance(item["code"], bool) and _is_text(item.get("name"))):
            yield line, f"a class has a whole number as code and a name, found {dict(item)}"
        elif "color" in item and not (isinstance(item["color"], str) and _color.fullmatch(item["color"])):
            yield line, f"a color is #rrggbb, found {item['color']!r}"
    for key, plain in (("scale", 1), ("offset", 0), ("resampling", "nearest"), ("decibel", False)):
        if values.get(key, plain) != plain:
            yield entry.at(key), f"classes are stored as their codes: {key} must be {plain!r}, found {values[key]!r}"


def _hook_problems(entry: Entry) -> Iterator[Problem]:
    values = entry.values
    if "hook" not in values:
        return
    if not _hook.fullmatch(values["hook"]):
        yield entry.at("hook"), f"hook must be 'module:function', found {values['hook']!r}"
    for key in _without_hook:
        if key in values:
            yield entry.at(key), f"{key} is not used with a hook, which does that itself"
    if isinstance(values["bands"], Mapping):
        yield entry.at("bands"), "with a hook bands are a list: the names of the bands that it makes"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (_is_number(value) and math.isfinite(value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(item) for item in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(item) and math.isfinite(item) for item in value)


def _is_bands(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(_is_text(item) for item in value.values())
    return _is_texts(value)
