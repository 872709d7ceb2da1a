"""Arrays declared in a user's TOML file: every mistake is named with its line, all of them at once.

A file has one `[[array]]` for each array; docs/modalities.md shows the keys. Nothing is read or sent here.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3etl.errors import InputError
from m3etl.spec.modality import ArraySpec, ClassCode, Resampling, Shape, Temporal, Transform, Values
from m3etl.spec.program import Comparison, Filter, Mask, Output, Program, Window, monthly, months, seasonal, seasons

_required = ("name", "asset", "bands", "dtype", "native_gsd_m")
_texts = ("name", "modality", "title", "asset", "kind", "values", "dtype", "units", "resampling", "window", "transform",
          "license", "notice", "label_family")  # fmt: skip
_numbers = ("fill", "scale", "offset", "source_scale", "source_offset", "valid_min", "valid_max", "native_gsd_m",
            "max_gap_days")  # fmt: skip
_others = ("bands", "reducers", "period", "filters", "masks", "no_data", "classes", "decibel", "target")
keys = (*_texts, *_numbers, *_others)
_dtypes = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
_name = re.compile(r"[a-z][a-z0-9_]{1,40}")
_temporal = {
    Window.STATIC: Temporal.STATIC,
    Window.NEAREST: Temporal.NEAREST,
    Window.YEAR: Temporal.YEAR,
    Window.SEASONS: Temporal.SEASONS,
}
_periods = {"seasons": tuple(seasons), "months": tuple(months)}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One [[array]] of a file, with the lines of its keys."""

    values: Mapping[str, Any]
    lines: Mapping[str, int]
    first_line: int

    def at(self, key: str) -> int:
        return self.lines.get(key, self.first_line)


def parse_declarations(text: str, *, file: str) -> tuple[ArraySpec, ...]:
    """The arrays that a TOML text declares. file: its name, for messages.

    Raises InputError with every problem and its line: unknown or missing keys, wrong types, values that contradict
    each other (a fill that is a class code, a dtype that can't hold the range, a reducer that does not exist).
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file} is no TOML: {error}", hint="Mend the line named above.") from None
    problems = [f"{file}:{_line_of(text, key)}: unknown table {key!r}" for key in document if key != "array"]
    entries = _entries(text, document.get("array", []))
    specs: list[ArraySpec] = []
    for entry in entries:
        found = _problems(entry)
        if not found:
            try:
                specs.append(_spec(entry.values))
            except InputError as error:
                found = [(entry.first_line, error.message)]
        problems += [f"{file}:{line}: {text}" for line, text in found]
    names = [spec.name for spec in specs]
    problems += [
        f"{file}: the array {name!r} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if not entries and not problems:
        problems.append(f"{file}: declares no array; it needs at least one [[array]]")
    if problems:
        raise InputError("\n".join(problems), hint="docs/modalities.md lists the keys of an [[array]].")
    return tuple(specs)


def _entries(text: str, tables: Any) -> list[_Entry]:
    if not isinstance(tables, list):
        raise InputError("'array' is not a list of tables", hint="Write [[array]], with two brackets.")
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
        entries.append(_Entry(values, found, first + 1))
    return entries


def _line_of(text: str, key: str) -> int:
    return next((index for index, line in enumerate(text.splitlines(), 1) if key in line), 1)


def _problems(entry: _Entry) -> list[tuple[int, str]]:
    values = entry.values
    found = [(entry.at(key), f"unknown key {key!r}; known: {', '.join(keys)}") for key in values if key not in keys]
    found += [(entry.first_line, f"the key {key!r} is missing") for key in _required if key not in values]
    for key in _texts:
        if key in values and not isinstance(values[key], str):
            found.append((entry.at(key), f"{key} must be text, found {values[key]!r}"))
    for key in _numbers:
        if key in values and (isinstance(values[key], bool) or not isinstance(values[key], int | float)):
            found.append((entry.at(key), f"{key} must be a number, found {values[key]!r}"))
    if found:
        return found
    if not _name.fullmatch(values["name"]):
        found.append((entry.at("name"), f"the name {values['name']!r} must be lower case letters, digits and _"))
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
            found.append((entry.at(key), f"{key} must be one of {', '.join(known)}, found {values[key]!r}"))
    for key in ("decibel", "target"):
        if key in values and not isinstance(values[key], bool):
            found.append((entry.at(key), f"{key} must be true or false, found {values[key]!r}"))
    if not _is_bands(values["bands"]):
        found.append((entry.at("bands"), "bands must be a list of band names, or a table stored = 'source'"))
    if "reducers" in values and not _is_texts(values["reducers"]):
        found.append((entry.at("reducers"), "reducers must be a list of names such as ['mean', 'p90']"))
    if not _is_numbers(values.get("no_data", [])):
        found.append((entry.at("no_data"), f"no_data must be a list of numbers, found {values['no_data']!r}"))
    found += _table_problems(entry, "filters", {"property", *Comparison})
    found += _table_problems(entry, "masks", {"band", "bits", "values", "at_least", "at_most"})
    found += _table_problems(entry, "classes", {"code", "name", "color"})
    if values.get("values") == "classes" and not values.get("classes"):
        found.append((entry.at("values"), "classes need a table: classes = [{ code = 1, name = 'water' }, ...]"))
    return found


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in value
    )


def _is_bands(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(item, str) for item in value.values())
    return _is_texts(value)


def _table_problems(entry: _Entry, key: str, known: set[str]) -> list[tuple[int, str]]:
    tables = entry.values.get(key, [])
    line = entry.at(key)
    if not isinstance(tables, list) or not all(isinstance(item, Mapping) for item in tables):
        return [(line, f"{key} must be a list of tables")]
    found = []
    first = {"filters": "property", "masks": "band", "classes": "code"}[key]
    for item in tables:
        unknown = sorted(set(item) - known)
        if unknown:
            found.append((line, f"{key}: unknown key {', '.join(unknown)}; known: {', '.join(sorted(known))}"))
        elif first not in item:
            found.append((line, f"{key}: the key {first!r} is missing"))
        elif key == "filters" and len(item) != 2:
            found.append((line, f"a filter has a property and one comparison, found {dict(item)}"))
        elif key == "classes" and (
            "name" not in item or isinstance(item["code"], bool) or not isinstance(item["code"], int)
        ):
            found.append((line, f"a class has a whole number as code and a name, found {dict(item)}"))
    return found


def _spec(values: Mapping[str, Any]) -> ArraySpec:
    window = Window(values.get("window", "static"))
    kind = Values(values.get("values", "continuous"))
    outputs = _outputs(values, window, kind)
    program = Program(
        outputs=outputs,
        is_collection=values.get("kind", "collection") == "collection",
        window=window,
        filters=tuple(_filter(item) for item in values.get("filters", [])),
        masks=tuple(
            Mask(**{**item, "bits": tuple(item.get("bits", ())), "values": tuple(item.get("values", ()))})
            for item in values.get("masks", [])
        ),
        no_data=tuple(float(value) for value in values.get("no_data", [])),
        source_scale=float(values.get("source_scale", 1.0)),
        source_offset=float(values.get("source_offset", 0.0)),
        decibel=values.get("decibel", False),
    )
    classes = tuple(
        ClassCode(code=item["code"], name=str(item["name"]), color=str(item.get("color", "#808080")))
        for item in values.get("classes", [])
    )
    codes = [item.code for item in classes]
    is_classes = kind is Values.CLASSES
    default = "nearest" if is_classes else "bilinear"
    resampling = Resampling(values.get("resampling", default))
    if program.decibel and resampling is Resampling.BILINEAR:
        resampling = Resampling.BILINEAR_LINEAR_POWER
    fill = values.get("fill")
    if fill is not None and fill != int(fill):
        raise InputError(f"fill must be a whole number, found {fill}")
    return ArraySpec(
        name=values["name"],
        modality=values.get("modality", values["name"]),
        title=values.get("title", values["name"]),
        shape=Shape.RASTER,
        values=kind,
        bands=tuple(output.name for output in outputs),
        dtype=values["dtype"],
        fill=None if fill is None else int(fill),
        units=values.get("units", "1"),
        source=(values["asset"],),
        recipe="program",
        temporal=_temporal[window],
        license=values.get("license", "unknown"),
        notice=values.get("notice", ""),
        scale=float(values.get("scale", 1.0)),
        offset=float(values.get("offset", 0.0)),
        valid_min=float(values.get("valid_min", min(codes) if codes else -math.inf)),
        valid_max=float(values.get("valid_max", max(codes) if codes else math.inf)),
        native_gsd_m=float(values["native_gsd_m"]),
        resampling=resampling,
        transform=Transform(values.get("transform", "none" if is_classes else "z-score")),
        classes=classes,
        max_gap_days=float(values.get("max_gap_days", 30.0 if window is Window.NEAREST else math.inf)),
        target=values.get("target", True),
        label_family=values.get("label_family", ""),
        program=program,
        periods=_periods.get(values.get("period", ""), ()),
    )


def _outputs(values: Mapping[str, Any], window: Window, kind: Values) -> tuple[Output, ...]:
    bands = values["bands"]
    named = dict(bands) if isinstance(bands, Mapping) else {name: name for name in bands}
    default = "mosaic" if window in (Window.STATIC, Window.NEAREST) else "mode" if kind is Values.CLASSES else "mean"
    reducers = values.get("reducers", [default])
    period = values.get("period", "")
    if period:
        made = (seasonal if period == "seasons" else monthly)(tuple(named), tuple(reducers))
        return tuple(
            Output(name=item.name, band=named[item.band], reducer=item.reducer, period=item.period) for item in made
        )
    if len(reducers) == 1:
        return tuple(Output(name=name, band=source, reducer=reducers[0]) for name, source in named.items())
    return tuple(
        Output(name=f"{name}_{reducer}", band=source, reducer=reducer)
        for name, source in named.items()
        for reducer in reducers
    )


def _filter(item: Mapping[str, Any]) -> Filter:
    comparison = next(key for key in item if key != "property")
    value = item[comparison]
    return Filter(
        property=item["property"],
        comparison=Comparison(comparison),
        value=tuple(value) if isinstance(value, list) else value,
    )
