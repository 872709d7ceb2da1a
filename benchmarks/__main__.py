"""`python -m benchmarks [--quick]`: runs every bench_*.py, prints a table and writes benchmarks/results.json."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

folder = Path(__file__).parent


def main() -> None:
    """Rows of all benches, each with the machine and the commit, see docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, under five minutes")
    parser.add_argument(
        "--only", default="", help="run only the benches whose file's name holds this; others keep their rows"
    )
    arguments = parser.parse_args()
    machine, commit = describe_machine(), describe_commit()
    rows = []
    for path in sorted(folder.glob("bench_*.py")):
        if arguments.only in path.stem:
            module = importlib.import_module(f"benchmarks.{path.stem}")
            found = module.run(quick=arguments.quick)
            rows += [{**row, "machine": machine, "commit": commit} for row in found]
            for row in found:
                print(as_line(row), flush=True)
    write_results(rows, keep_others=bool(arguments.only))


def write_results(rows: list[dict[str, Any]], *, keep_others: bool) -> None:
    """benchmarks/results.json with these rows; with `keep_others` only those of the same name are replaced."""
    path = folder / "results.json"
    if keep_others and path.exists():
        measured = {row["bench"] for row in rows}
        rows = [row for row in json.loads(path.read_text()) if row["bench"] not in measured] + rows
    rows = sorted(rows, key=lambda row: row["bench"])
    path.write_text(json.dumps(rows, indent=1) + "\n")


def as_line(row: dict[str, Any]) -> str:
    """One row of the table: name, value and spread, rival."""
    low, high = row["spread"]
    value = "" if row["rival_value"] is None else f" ({row['rival_value']:.4g})"
    against = f"  against {row['rival']}{value}" if row["rival"] else ""
    return f"{row['bench']:34} {row['value']:10.4g} {row['unit']:10} [{low:.4g}, {high:.4g}] x{row['runs']}{against}"


def describe_machine() -> str:
    """Processor, cores and memory, without a name of the host."""
    names = {line.split(":")[1].strip() for line in _processor_lines() if line.startswith("model name")}
    processor = " / ".join(sorted(names)) or platform.processor() or platform.machine()
    memory = round(psutil.virtual_memory().total / 2**30)
    return f"{processor}, {psutil.cpu_count()} cores, {memory} GiB, Python {platform.python_version()}"


def _processor_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def describe_commit() -> str:
    """The commit measured, marked where the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
