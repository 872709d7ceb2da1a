"""What one request may use, and what it did use.

The figures are the service's own where it publishes them (https://developers.google.com/earth-engine/guides/usage);
the memory budget and the size of a pinned intermediate grid are not published and are set to what keeps this machine
safe.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from m3etl.emulator.model import ServiceError, invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one request."""

    memory_bytes: int = 2 << 30
    seconds: float = 300.0
    collection_elements: int = 5000
    reprojection_pixels: int = 4096 * 4096
    block_pixels: int = 512  # side of the blocks in which big grids are evaluated
    region_values: int = 1048576  # values of one ImageCollection.getRegion
    sample_rectangle_pixels: int = 262144


@dataclass(slots=True, kw_only=True)
class Usage:
    """What a request touched: distinct source images, band reads (image x band) and sampled native pixels."""

    scenes: int = 0
    bands: int = 0
    pixels: int = 0
    elements: int = 0
    _seen: set[int] = field(default_factory=set)

    def add(self, image: int, bands: int, pixels: int) -> None:
        """Count one sampling of `bands` bands of the image with identity `image`."""
        if image not in self._seen:
            self._seen.add(image)
            self.scenes += 1
        self.bands += bands
        self.pixels += bands * pixels


class Budget:
    """Time and memory of one request; raises the service's own errors when they run out."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._held = 0

    def check_time(self) -> None:
        """Raise once the request has run too long."""
        if time.monotonic() > self._deadline:
            raise invalid("Computation timed out.")

    def hold(self, size: int) -> None:
        """Account for `size` bytes of live pixels."""
        self._held += size
        if self._held > self.limits.memory_bytes:
            raise memory_exceeded()

    def release(self, size: int) -> None:
        """The pixels are gone."""
        self._held -= size


def memory_exceeded() -> ServiceError:
    """The error of a request that needs too much memory."""
    return invalid("User memory limit exceeded.")
