"""The pixel lane over the embedded Earth Engine: requests per chip, chips per second, memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def run(*, quick: bool = True) -> list[dict[str, Any]]:
    """Exports of fresh campaigns; chips per second are bound by the embedded server's own cores, and say so."""
    chips, runs = (56, 3) if quick else (560, 3)
    per_chip, rate = [], []
    for seed in range(runs):
        with tempfile.TemporaryDirectory(prefix="m3etl-bench-") as folder:
            requests, seconds, done = _export(Path(folder), chips, seed)
            per_chip.append(requests / done)
            rate.append(done / seconds)
    note = f"{chips} chips over 14 biomes, all modalities, server and client on the same machine"
    return [
        _row("acquisition.requests_per_chip", per_chip, "requests", "MMEarth's downloader", 22.0, note),
        _row("acquisition.embedded_chips_per_second", rate, "chips/s", "", 0.0, note + "; the server is the limit"),
    ]


def _export(folder: Path, chips: int, seed: int) -> tuple[int, float, int]:
    command = [sys.executable, "-W", "ignore", "-m", "m3etl", "--json", "-C", str(folder / "c")]
    options = ["--ee-url", "embedded"]
    sample = ["sample", "--chips", str(chips), "--seed", str(seed)]
    subprocess.run([*command, *sample, *options], check=True, capture_output=True)
    started = time.monotonic()
    result = subprocess.run([*command, "export", *options], check=True, capture_output=True, text=True)
    summary = json.loads(result.stdout)
    return int(summary["requests"]), time.monotonic() - started, int(summary["done"])


def _row(bench: str, values: list[float], unit: str, rival: str, rival_value: float, note: str) -> dict[str, Any]:
    return {
        "bench": bench,
        "value": statistics.median(values),
        "unit": unit,
        "rival": rival,
        "rival_value": rival_value,
        "runs": len(values),
        "spread": [min(values), max(values)],
        "note": note,
    }
