"""Where a chip, a block of chips, or a part of one lies: zone, corner, pixels of 10 m."""

from __future__ import annotations

from dataclasses import dataclass

from m3etl.spec.modality import ArraySpec

pixel_m = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipGrid:
    """Where a chip lies, or a square block of chips: EPSG code, upper-left corner in metres, pixels of 10 m a side of
    one chip, chips a side.
    """

    chip_id: str
    epsg: int
    xmin: float
    ymax: float
    chip_px: int
    chips: int = 1

    @property
    def chip_m(self) -> float:
        """Side of one chip in metres."""
        return self.chip_px * pixel_m

    @property
    def side_m(self) -> float:
        """Side of the whole square in metres."""
        return self.chips * self.chip_m

    @property
    def side_px(self) -> int:
        """Side of the whole square in pixels of 10 m."""
        return self.chips * self.chip_px

    def pixels(self, spec: ArraySpec) -> int:
        """Pixels a side that an array has over the whole square; every chip keeps its own grid."""
        return self.chips * spec.pixels(self.chip_m)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a chip's pixel grid: columns [0, width), rows [top, bottom)."""

    width: int
    top: int
    bottom: int
