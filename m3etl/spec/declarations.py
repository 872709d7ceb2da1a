"""Arrays declared in a user's TOML file: every mistake is named with its line, all of them at once.

A file has one `[[array]]` for each array; docs/own-arrays.md shows the keys. Nothing is read or sent here.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from typing import Any

from m3etl.errors import InputError
from m3etl.spec.catalog import shipped_arrays
from m3etl.spec.declared_problems import contradictions, entries_of, problems_of
from m3etl.spec.modality import ArraySpec, ClassCode, Resampling, Shape, Temporal, Transform, Values, hook_prefix
from m3etl.spec.program import Comparison, Filter, Mask, Output, Program, Window, monthly, months, seasonal, seasons

_temporal = {
    Window.STATIC: Temporal.STATIC,
    Window.NEAREST: Temporal.NEAREST,
    Window.YEAR: Temporal.YEAR,
    Window.SEASONS: Temporal.SEASONS,
}
_periods = {"seasons": tuple(seasons), "months": tuple(months)}


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
    tables = document.get("array", [])
    if not isinstance(tables, list) or not all(isinstance(item, Mapping) for item in tables):
        line = _line_of(text, "array")
        raise InputError(f"{file}:{line}: 'array' is no list of tables", hint="Write [[array]], with two brackets.")
    entries = entries_of(text, tables)
    specs: list[ArraySpec] = []
    for entry in entries:
        found = problems_of(entry)
        if not found:
            try:
                specs.append(_spec(entry.values))
            except InputError as error:
                found = contradictions(entry, error.message)
            else:
                taken = shipped_arrays().get(specs[-1].name, specs[-1])
                if taken != specs[-1]:
                    found = [(entry.at("name"), f"the name {taken.name!r} is declared already: {taken.title}")]
        problems += [f"{file}:{line}: {text}" for line, text in found]
    names = [spec.name for spec in specs]
    problems += [
        f"{file}: the array {name!r} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if not entries and not problems:
        problems.append(f"{file}: declares no array; it needs at least one [[array]]")
    if problems:
        raise InputError("\n".join(problems), hint="docs/own-arrays.md lists the keys of an [[array]].")
    return tuple(specs)


def _line_of(text: str, key: str) -> int:
    return next((index for index, line in enumerate(text.splitlines(), 1) if key in line), 1)


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
        recipe=f"{hook_prefix}{values['hook']}" if "hook" in values else "program",
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
    if "hook" in values:
        default = "first"  # named, but not used: the function reduces
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
