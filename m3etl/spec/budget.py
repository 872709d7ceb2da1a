"""What an export will cost before anything is sent: requests, bytes down and on disk, time at the quota."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from m3etl.spec.jobs import max_request_bytes, request_bytes
from m3etl.spec.modality import ArraySpec, Shape

planning_rounds = 2.5  # measured on the planet: two questions per chip and some repeated for other years
stored_share = 0.6  # compressed size of a shard against its raw values, measured on the planet


def estimate(
    *,
    chips: int,
    specs: Sequence[ArraySpec],
    chip_m: float,
    chip_px: int,
    plan_batch: int,
    requests_per_second: float,
    check_every: int,
) -> dict[str, Any]:
    """Figures of an export of `chips` chips: requests, bytes and the seconds that the quota makes it take at least."""
    rasters = [spec for spec in specs if spec.shape is Shape.RASTER]
    counted = request_bytes(chip_px, chip_px, rasters)
    pixel_requests = chips * max(1, math.ceil(counted / max_request_bytes)) if rasters else 0
    planning_requests = math.ceil(planning_rounds * math.ceil(chips / max(1, plan_batch)))
    per_pixel = sum(len(spec.bands) * np.dtype(spec.dtype).itemsize for spec in rasters)
    down = chips * per_pixel * chip_px * chip_px
    down += math.ceil(chips / check_every) * 12 * chip_px * chip_px if check_every and rasters else 0
    values = chips * sum(int(np.prod(spec.chip_shape(chip_m))) * np.dtype(spec.dtype).itemsize for spec in specs)
    requests = pixel_requests + planning_requests
    return {
        "chips": chips,
        "requests": requests,
        "requests per chip": round(requests / chips, 3) if chips else None,
        "bytes down (upper bound)": down,
        "bytes on disk (estimate)": round(values * stored_share),
        "seconds at the quota": round(requests / requests_per_second, 1),
    }
