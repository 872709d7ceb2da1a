"""What `m3etl --help` costs: user and system CPU seconds of a fresh process."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from typing import Any

limit_seconds = 0.3


def run(*, quick: bool = True) -> list[dict[str, Any]]:
    """`cli.help_cpu_seconds`, the median of several fresh processes."""
    seconds = [_help_cpu_seconds() for _ in range(5 if quick else 15)]
    return [
        {
            "bench": "cli.help_cpu_seconds",
            "value": statistics.median(seconds),
            "unit": "seconds",
            "rival": "the limit",
            "rival_value": limit_seconds,
            "runs": len(seconds),
            "spread": [min(seconds), max(seconds)],
            "note": "python -m m3etl --help",
        }
    ]


def _help_cpu_seconds() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "m3etl", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
