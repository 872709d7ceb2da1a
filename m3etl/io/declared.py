"""A user's declaration files: read, kept in the campaign under `modalities/`, known to the process that opens it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3etl.campaign import ensure_directory, write_atomically
from m3etl.errors import InputError
from m3etl.spec.catalog import declare_arrays
from m3etl.spec.declarations import parse_declarations
from m3etl.spec.modality import ArraySpec

largest_file_bytes = 1_000_000


def read_declarations(path: Path) -> tuple[str, tuple[ArraySpec, ...]]:
    """The text of a file and the arrays that it declares. InputError with every mistake and its line."""
    try:
        if path.stat().st_size > largest_file_bytes:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; a declaration has a few hundred")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return text, parse_declarations(text, file=path.name)


def declare_of_campaign(root: Path) -> tuple[ArraySpec, ...]:
    """Make the arrays of a campaign's own files known; returns them."""
    found = [spec for path in sorted((root / "modalities").glob("*.toml")) for spec in read_declarations(path)[1]]
    declare_arrays(found)
    return tuple(found)


def keep_declarations(root: Path, path: Path) -> tuple[ArraySpec, ...]:
    """Copy a file into the campaign and make its arrays known; a file of the same name must say the same, and no array
    may be named like a column that the user's points brought: labels and arrays are asked for by the same names.
    """
    text, specs = read_declarations(path)
    _refuse_names_of_columns(root / "chips.parquet", path.name, specs)
    kept = root / "modalities" / path.name
    if kept.exists() and read_declarations(kept)[1] != specs:
        raise InputError(
            f"the campaign has a {path.name} already, which declares its arrays otherwise",
            hint="Give the file, and arrays that changed, another name: what is stored keeps its declaration.",
        )
    declare_arrays(specs)
    ensure_directory(kept.parent)
    write_atomically(kept, text.encode())
    return specs


def _refuse_names_of_columns(plan: Path, file: str, specs: Sequence[ArraySpec]) -> None:
    from m3etl.io.plan import extra_types

    columns = extra_types(plan) if plan.exists() else {}
    if clashing := [spec.name for spec in specs if spec.name in columns]:
        raise InputError(
            f"{file} declares {', '.join(clashing)}, and a column that the points brought has that name already",
            hint="Give the array another name.",
        )
