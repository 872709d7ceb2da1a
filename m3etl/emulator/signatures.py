"""The signature list that the service publishes and every call is checked against.

It is read from the installed Earth Engine client, which ships it for its own tests, without importing the client;
where a client comes without it, `signature_table` has the same entries for the algorithms that the embedded service
evaluates.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from m3etl.emulator.signature_table import SIGNATURES

PREFIX = "algorithms/"


@functools.cache
def load_signatures() -> tuple[dict[str, Any], ...]:
    """Entries as `GET …/algorithms` returns them: name, description, returnType, arguments[…], hidden."""
    spec = importlib.util.find_spec("ee")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "tests" / "algorithms.json"
        if path.is_file():
            entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["algorithms"]
            return tuple(entries)
    return own_signatures()


def own_signatures() -> tuple[dict[str, Any], ...]:
    """The fallback list, in the same form but without descriptions."""
    return tuple(parse_signature(line) for line in SIGNATURES.strip().splitlines())


def parse_signature(line: str) -> dict[str, Any]:
    """An entry from `Name(argument:Type | optional:Type=default) -> Type`; JSON defaults, `!` means hidden."""
    hidden = line.endswith("!")
    match = re.fullmatch(r"([^(]+)\((.*)\) -> (.+)", line.rstrip("!").strip())
    if match is None:
        raise ValueError(f"not a signature: {line!r}")
    name, arguments, returns = match.groups()
    entry: dict[str, Any] = {"name": PREFIX + name, "description": "", "returnType": returns, "arguments": []}
    for part in re.split(r" \| ", arguments) if arguments else []:
        declared, equals, default = part.partition("=")
        argument_name, kind = declared.split(":", 1)
        argument: dict[str, Any] = {"argumentName": argument_name, "type": kind, "description": ""}
        if equals:
            argument |= {"optional": True, "defaultValue": json.loads(default)}
        entry["arguments"].append(argument)
    if hidden:
        entry["hidden"] = True
    return entry


def format_signature(entry: dict[str, Any]) -> str:
    """The inverse of `parse_signature`, for keeping the table in step with the client."""
    parts = []
    for argument in entry.get("arguments", ()):
        part = f"{argument['argumentName']}:{argument['type']}"
        if argument.get("optional"):
            part += "=" + json.dumps(argument.get("defaultValue"), separators=(",", ":"))
        parts.append(part)
    hidden = "!" if entry.get("hidden") else ""
    return f"{entry['name'].removeprefix(PREFIX)}({' | '.join(parts)}) -> {entry['returnType']}{hidden}"
