"""What the tests of the evaluator share: the client over known assets, and small grids."""

from __future__ import annotations

from typing import Any

from m3etl.emulator.evaluate import Evaluator, Limits
from m3etl.emulator.model import Grid
from tests.fakes import ee_in_process
from tests.fakes.known_assets import UTM, KnownAssets


class Session:
    """An evaluator over fresh known assets, asked through the client's own graphs."""

    def __init__(self, transport: ee_in_process.Transport) -> None:
        self._transport = transport
        self.use(KnownAssets())

    def use(self, assets: Any, limits: Limits | None = None) -> None:
        self.assets = assets
        self.evaluator = Evaluator(assets, limits=limits)
        self._transport.evaluator = self.evaluator

    def pixels(self, image: Any, on: Grid | None = None, **options: Any) -> Any:
        return ee_in_process.pixels(self.evaluator, image, on, **options)

    def band(self, image: Any, on: Grid | None = None, name: str | None = None) -> tuple[Any, Any]:
        """(values, valid) of one band."""
        raster = self.pixels(image, on)
        chosen = next(iter(raster.bands)) if name is None else name
        return raster.bands[chosen], raster.valid[chosen]


def utm_grid(column: int = 0, row: int = 0, width: int = 8, height: int = 8, pixel: float = 10.0) -> Grid:
    """A grid whose first pixel begins at 10 m pixel (column, row) of the known images."""
    transform = (pixel, 0.0, 600000.0 + 10 * column, 0.0, -pixel, 5200000.0 - 10 * row)
    return ee_in_process.grid(UTM.crs, transform, width, height)
