"""The arrows between the packages, the rooms of the heavy libraries, and options that somebody reads."""

from __future__ import annotations

import ast
import dataclasses
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from m3etl import campaign as campaign_module

package = Path(__file__).parents[2] / "m3etl"
sources = sorted(package.rglob("*.py"))

# What each layer may import of ours; everything may import errors, campaign and the package itself.
below = {
    "spec": {"spec"},
    "compute": {"spec", "compute"},
    "io": {"spec", "compute", "io", "emulator"},
    "learn": {"spec", "compute", "io", "learn"},
    "stages": {"spec", "compute", "io", "learn", "stages", "emulator"},
    "cli": {"spec", "compute", "io", "learn", "stages", "cli", "emulator"},
    "emulator": {"emulator"},
}
edges = {"requests", "httpx", "obstore", "fsspec", "sqlite3", "urllib.request", "socket", "huggingface_hub"}
banned = {
    "spec": {"ee", "click", "zarr", "rasterio", "torch", "torchvision", *edges},
    "compute": {"ee", "click", "zarr", "rasterio", *edges},
}


def layer_of(path: Path) -> str:
    """spec, compute, io ...; "" for the modules of the package itself."""
    parts = path.relative_to(package).parts
    return parts[0] if len(parts) > 1 else ""


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, with its line."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def within(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def test_imports_follow_the_arrows():
    wrong = []
    for path in sources:
        layer = layer_of(path)
        if not layer:
            continue
        for module, line in imported(path):
            parts = module.split(".")
            if parts[0] == "m3etl" and len(parts) > 1 and parts[1] in below and parts[1] not in below[layer]:
                wrong.append(f"{path.relative_to(package)}:{line} imports {module}")
    assert wrong == []


def test_the_emulator_knows_nothing_of_ours_but_the_errors():
    wrong = [
        f"{path.relative_to(package)}:{line} imports {module}"
        for path in sources
        if layer_of(path) == "emulator"
        for module, line in imported(path)
        if module.startswith("m3etl.") and not within(module, {"m3etl.emulator", "m3etl.errors", "m3etl.__version__"})
    ]
    assert wrong == []


def test_spec_and_compute_touch_no_edge():
    wrong = [
        f"{path.relative_to(package)}:{line} imports {module}"
        for path in sources
        for module, line in imported(path)
        if within(module, banned.get(layer_of(path), set()))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("ee", {"io/earthengine.py", "io/recipes.py", "io/exports.py"}),
        ("click", {"cli/"}),
        ("huggingface_hub", {"io/hub.py", "io/machine.py"}),
        ("torchvision", set()),
        ("timm", set()),
        ("pickle", set()),
    ],
)
def test_libraries_keep_to_their_rooms(library, rooms):
    wrong = [
        f"{path.relative_to(package)}:{line}"
        for path in sources
        for module, line in imported(path)
        if within(module, {library})
        and not any(path.relative_to(package).as_posix().startswith(room) for room in rooms)
    ]
    assert wrong == []


def test_cores_are_counted_in_one_place():
    """Not every system says which ones a process may use."""
    wrong = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in sources
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr == "sched_getaffinity" and path.name != "workers.py"
    ]
    assert wrong == []


def test_package_files_import_nothing():
    for path in package.glob("*/__init__.py"):
        assert [module for module, _ in imported(path) if module != "__future__.annotations"] in ([], ["__future__"]), (
            path
        )


def test_no_source_imports_by_position_relative():
    relative = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in sources
        for node in nodes_of(path)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


@pytest.mark.parametrize("module", ["m3etl.cli.main", "m3etl.campaign", "m3etl.spec.catalog", "m3etl.stages.chain"])
def test_importing_a_front_module_stays_light(module):
    program = (
        f"import {module}, sys; print([n for n in ('ee', 'torch', 'rasterio', 'zarr', 'pandas') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def config_fields() -> Iterator[tuple[str, str]]:
    for section in dataclasses.fields(campaign_module.CampaignConfig):
        kind = getattr(campaign_module, str(section.type), None)
        if kind is None:
            yield "", section.name
        else:
            yield from ((section.name, item.name) for item in dataclasses.fields(kind))


@pytest.mark.parametrize(("section", "name"), list(config_fields()))
def test_an_option_that_is_accepted_is_read_somewhere(section, name):
    readers = [
        path
        for path in sources
        if path.name != "campaign.py"
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
    ]
    assert readers, f"nothing reads {section}.{name}"


def test_every_module_says_what_it_is_for():
    for path in sources:
        module = nodes_of(path)[0]
        assert isinstance(module, ast.Module)
        assert ast.get_docstring(module), f"{path} has no docstring"
