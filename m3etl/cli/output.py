"""How a result reaches standard output: aligned tables for people, one JSON document with --json."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import click

from m3etl.cli.options import Settings
from m3etl.stages.summary import Summary, size_text

counters = ("done", "skipped", "rejected", "failed")
longest_list = 80  # characters; the items of a longer list of texts get a line each
longest_mapping = 4  # figures; more of them become a table


def write_summaries(settings: Settings, summaries: Sequence[Summary]) -> None:
    """The last summary as the result; those of earlier stages, if any, go before it (`earlier` in JSON)."""
    if settings.as_json:
        document = summary_document(summaries[-1])
        if summaries[:-1]:
            document["earlier"] = [summary_document(item) for item in summaries[:-1]]
        write_document(document)
        return
    for summary in summaries:
        _write_summary(summary)


def write_document(document: Any) -> None:
    """One JSON document; NaN and infinity, which JSON does not have, become null."""
    click.echo(json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False))


def write_rows(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """A table with the keys of the rows as columns; numbers to the right."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if sys.stdout.isatty():
        _write_rich(columns, rows, title)
        return
    if title:
        click.echo(title)
    cells = [[cell_text(row.get(column)) for column in columns] for row in rows]
    widths = [max([len(name), *(len(line[i]) for line in cells)]) for i, name in enumerate(columns)]
    right = [_is_number_column(column, rows) for column in columns]
    for line in [columns, *cells]:
        parts = [
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, numeric in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())


def write_pairs(pairs: Mapping[str, Any]) -> None:
    """Two aligned columns: name and value."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        size = f" ({size_text(value)})" if name.strip().startswith("bytes") and _is_large_number(value) else ""
        click.echo(f"{name.ljust(width)}  {cell_text(value)}{size}")


def summary_document(summary: Summary) -> dict[str, Any]:
    """The summary as a JSON object: counters, seconds, reasons of failure and the stage's own facts."""
    return {
        "stage": summary.stage,
        **{name: getattr(summary, name) for name in counters},
        "seconds": round(summary.seconds, 3),
        "errors": dict(summary.errors),
        **{name: value for name, value in summary.facts.items() if name not in (*counters, "stage")},
    }


def cell_text(value: Any) -> str:
    """One value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(cell_text(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell_text(item)}" for name, item in value.items())
    return _plain_number(value) if hasattr(value, "item") else str(value)


def plain(value: Any) -> Any:
    """Any value of a summary as something JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _write_summary(summary: Summary) -> None:
    counts = [f"{getattr(summary, name):,} {name}" for name in counters if getattr(summary, name) or name == "done"]
    click.echo(f"{summary.stage}: {', '.join(counts)} in {duration_text(summary.seconds)}")
    pairs: dict[str, Any] = {}
    tables: dict[str, Sequence[Mapping[str, Any]]] = {}
    figures: dict[str, Mapping[str, Any]] = {}
    lists: dict[str, Sequence[str]] = {}
    for name, value in summary.facts.items():
        label = name.replace("_", " ")
        if _is_long_list(value):
            lists[label] = value
        elif _is_long_mapping(value):
            figures[label] = value
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            tables[label] = value
        elif isinstance(value, Mapping) and value and all(isinstance(item, Mapping) for item in value.values()):
            tables[label] = [{"name": key, **item} for key, item in value.items()]
        else:
            pairs[label] = "none" if value == [] else value
    write_pairs({f"  {name}": value for name, value in pairs.items()})
    for label, items in lists.items():
        click.echo(f"  {label}")
        for item in items:
            click.echo(f"    {item}")
    if figures:
        tables[""] = _side_by_side(figures)
    for label, rows in tables.items():
        click.echo("")
        write_rows(rows, title=label)
    for reason, count in summary.top_errors():
        click.echo(f"  {count} x {reason}")


def _is_large_number(value: Any) -> bool:
    return isinstance(value, int) and value >= 10_000


def _is_long_list(value: Any) -> bool:
    is_texts = isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(item, str) for item in value)
    return is_texts and len(", ".join(value)) > longest_list


def _is_long_mapping(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > longest_mapping
        and all(isinstance(item, int | float) for item in value.values())
    )


def _side_by_side(figures: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mappings of figures as columns of one table, a row for each key."""
    names = dict.fromkeys(key for mapping in figures.values() for key in mapping)
    return [{"name": name, **{label: mapping.get(name) for label, mapping in figures.items()}} for name in names]


def duration_text(seconds: float) -> str:
    """`0.4 s`, `3 min 05 s` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _write_rich(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):  # a name that is cut says nothing; the others wrap
        justify: Literal["right", "left"] = "right" if _is_number_column(column, rows) else "left"
        table.add_column(column, justify=justify, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(cell_text(row.get(column)) for column in columns))
    Console(markup=False).print(table)


def _is_number_column(column: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    values = [row.get(column) for row in rows if row.get(column) is not None]
    return bool(values) and all(
        (isinstance(value, int | float) or hasattr(value, "item")) and not isinstance(value, bool) for value in values
    )


def _plain_number(value: Any) -> str:
    item = value.item()
    return cell_text(item) if type(item) is not type(value) else str(item)


def _float_text(value: float) -> str:
    if math.isnan(value):
        return "-"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    text = f"{value:,.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
