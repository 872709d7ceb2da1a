"""A row of benchmarks/results.json: the median of several measurements, beside a rival or a limit."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def measured_row(
    bench: str, unit: str, values: Sequence[float], *, note: str, rival: str = "", rival_value: float | None = None
) -> Row:
    """The row of these values, without the machine and the commit, which the caller of `run` adds."""
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
