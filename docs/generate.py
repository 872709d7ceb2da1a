"""Writes the pages of docs/ that follow from the code or from measurements: modalities.md, commands.md, performance.md.
`--check` only compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from m3etl.cli.main import cli
from m3etl.spec.catalog import known_arrays, licenses
from m3etl.spec.modality import ArraySpec, Shape, Values

folder = Path(__file__).resolve().parent
notice = "<!-- Written by docs/generate.py (`make docs`); do not edit. -->\n"


def modalities_page() -> str:
    """The catalogue as tables: arrays, then the bands and classes of each."""
    rows = [
        (
            f"[`{spec.name}`](#{spec.name})",
            spec.modality,
            f"{spec.native_gsd_m:g} m" if spec.shape is Shape.RASTER else "vector",
            f"`{spec.dtype}`" + (f" x {spec.scale:g}" if spec.scale != 1 else ""),
            spec.units,
            str(spec.values),
            spec.title,
        )
        for spec in known_arrays().values()
    ]
    head = ("array", "modality", "pixel", "stored as", "units", "values", "what it is")
    sections = "\n\n".join(_array_section(spec) for spec in known_arrays().values())
    terms = [(item.id, item.kind, item.title, item.notice) for item in licenses.values()]
    return (
        f"{notice}\n# Modalities\n\nA modality is what you ask for (`m3etl export --modality aster`); "
        "it has one or more arrays. Physical value = stored x scale + offset; fill means that nothing was observed.\n\n"
        "An array with periods (seasons, months, dates) has all of its bands once for each: "
        "`(chip, period, band, y, x)` in the store and in samples. "
        "[Reading](reading.md) says how to choose them by name.\n\n"
        "Without a name, `export` takes MMEarth's twelve; the others come by name, or all of M3LEO's as "
        "`--modality m3leo`. [Arrays of your own](own-arrays.md) are declared in a TOML file.\n\n"
        "Chips of the embedded Earth Engine, one line a chip: MMEarth's rasters, then the further ones (hatched: not "
        "observed).\n\n"
        "![MMEarth's rasters](pictures/mmearth.png)\n\n![further rasters](pictures/further-1.png)\n\n"
        "![further rasters](pictures/further-2.png)\n\n"
        "![angles, probabilities, and the examples of arrays of your own](pictures/further-3.png)\n\n"
        "Interferograms, of made-up products with two components and a gap between them:\n\n"
        "![interferograms](pictures/gunw.png)\n\n"
        f"{_table(head, rows)}\n\n{sections}\n\n## Licences\n\n"
        f"{_table(('id', 'kind', 'terms', 'notice'), terms)}\n"
    )


def commands_page() -> str:
    """The help of every command."""
    root = click.Context(cli, info_name="m3etl", terminal_width=100, help_option_names=["-h", "--help"])
    parts = [f"{notice}\n# Commands\n\n```text\n{cli.get_help(root)}\n```"]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        parts.extend(_command_sections(command, name, root))
    return "\n\n".join(parts) + "\n"


def pages() -> Mapping[str, str]:
    """File name -> content."""
    return {"modalities.md": modalities_page(), "commands.md": commands_page(), "performance.md": performance_page()}


def performance_page() -> str:
    """The rows of benchmarks/results.json, with what each is measured against and under which conditions."""
    path = folder.parent / "benchmarks" / "results.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    head = ("what", "value", "spread", "runs", "against", "its value", "note")
    rows = [
        (
            f"`{row['bench']}`",
            f"{_short(row['value'])} {row['unit']}",
            f"{_short(row['spread'][0])} to {_short(row['spread'][1])}",
            str(row["runs"]),
            row["rival"] or "",
            "" if row["rival_value"] is None or not row["rival"] else _short(row["rival_value"]),
            " ".join(str(row["note"]).split()),
        )
        for row in found
    ]
    places = sorted({(row["machine"], row["commit"]) for row in found})
    where = "".join(f"* {machine}, commit `{commit}`\n" for machine, commit in places)
    return f"{notice}\n# Performance\n\n{_performance_text}\n{where}\n{_table(head, rows)}\n"


_performance_text = """Every figure is the median of several runs, a ratio against a named rival or limit on the same
data in the same run wherever there is one, and repeatable: `make bench` runs all of it and writes
`benchmarks/results.json`, from which this page is made; `make bench-quick` does the same at small sizes in a few
minutes. Rivals live in environments of their own (`.bench-venv-*`) and are used as their documentation says; one that
could not be installed or run is left out and said so. Ratios of speed are ours over the rival's unless the row says
that lower is better. Measured on:
"""


def _short(value: float) -> str:
    return f"{value:.4g}"


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with --check report those that are not as they would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args(arguments).check
    stale = []
    for name, text in pages().items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run `make docs` and commit\n")
    return 1 if check and stale else 0


def _array_section(spec: ArraySpec) -> str:
    limits = f"{spec.valid_min:g} to {spec.valid_max:g}".replace("inf", "no limit").replace("-no limit", "no limit")
    facts = [
        *([("periods", ", ".join(f"`{period}`" for period in spec.periods))] if spec.periods else []),
        ("bands" if spec.shape is Shape.RASTER else "features", ", ".join(f"`{band}`" for band in spec.band_names)),
        ("valid range", f"{limits} {'' if spec.units == '1' else spec.units}".strip()),
        ("fill", "NaN" if spec.fill is None else str(spec.fill)),
        ("resampling", str(spec.resampling)),
        ("time", str(spec.temporal) + (f", at most {spec.max_gap_days:g} days" if spec.max_gap_days < 1e6 else "")),
        ("source", ", ".join(f"`{name}`" for name in spec.source) or "computed by m3etl"),
        ("licence", licenses[spec.license].title),
    ]
    text = f"## {spec.name}\n\n{spec.title}.\n\n{_table(('', ''), facts)}"
    if spec.values is Values.CLASSES and spec.classes:
        codes = ", ".join(f"{item.code} {item.name}" for item in spec.classes)
        text += f"\n\nClasses: {codes}."
    return text


def _command_sections(command: click.Command, name: str, parent: click.Context) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100)
    sections = [f"## m3etl {context.command_path.partition(' ')[2]}\n\n```text\n{command.get_help(context)}\n```"]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            sections.extend(_command_sections(found, inner, context))
    return sections


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
