"""Writing shards against zarr-python, tensorstore and MMEarth's HDF5; reading is in `bench_loader`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.writing import run_writing


def run(*, quick: bool = True) -> list[dict[str, Any]]:
    """All rows of this file; `machine` and `commit` are added by the caller."""
    with tempfile.TemporaryDirectory(prefix="m3etl-bench-") as folder:
        return run_writing(Path(folder), quick=quick)
