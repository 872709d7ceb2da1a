"""Runs a command from a small process and says what it took. Where a large process starts another, Linux counts its
own peak memory as the other's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall seconds, seconds of processor time, most resident memory in MB."""

    seconds: float
    processor_s: float
    peak_mb: float


def measure(command: list[str], output: Path) -> Cost:
    """What a command takes; its standard output goes into a file. RuntimeError where it fails."""
    launcher = [sys.executable, "-m", "benchmarks.alone", str(output), *command]
    result = subprocess.run(launcher, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}: {result.stderr[-800:]}")
    return Cost(**json.loads(result.stdout))


def main() -> None:
    with Path(sys.argv[1]).open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(sys.argv[2:], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(code)
    print(json.dumps(asdict(Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000.0))))


if __name__ == "__main__":
    main()
