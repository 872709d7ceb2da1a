"""Runs m3etl as a user does, in a process of its own, and reads back what it stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.io.plan import read_plan
from m3etl.io.store import open_store
from m3etl.spec.modality import ArraySpec, physical_of


def m3etl(
    campaign: Path,
    *arguments: str,
    archive: Path | None = None,
    check: bool = True,
    largest_file_bytes: int | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """`m3etl -C campaign ARGUMENTS` on the embedded Earth Engine; fails with the command's own words."""
    settings = {**os.environ, "M3ETL_EE_URL": "embedded", "COLUMNS": "160", **environment}
    if archive is not None:
        settings["M3ETL_ARCHIVE"] = str(archive)
    command = [sys.executable, "-W", "ignore", "-m", "m3etl", "-C", str(campaign), *arguments]
    if largest_file_bytes is not None:
        command = ["bash", "-c", f'ulimit -f {largest_file_bytes // 1024} && exec "$@"', "limited", *command]
    result = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=540)
    if check and result.returncode:
        raise AssertionError(f"m3etl {' '.join(arguments)} exited {result.returncode}:\n{result.stderr}{result.stdout}")
    return result


def write_points(path: Path, points: Sequence[tuple[float, float, str]]) -> Path:
    """A GeoJSON file of points: (lon, lat, date)."""
    features = [
        {
            "type": "Feature",
            "properties": {"date": date} if date else {},
            "geometry": {"type": "Point", "coordinates": [lon, lat]},
        }
        for lon, lat, date in points
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


class StoredChips:
    """The chips of a campaign by id: their grid and their physical values."""

    def __init__(self, campaign: Path) -> None:
        self.store = open_store(campaign / "chips.zarr")
        self.plan = read_plan(campaign / "chips.parquet").set_index("chip_id", drop=False)
        self.ids = [str(chip_id) for chip_id in self.store.chip_ids if chip_id]

    def spec(self, array: str) -> ArraySpec:
        return self.store.specs[array]

    def stored(self, array: str, chip_id: str) -> npt.NDArray[Any]:
        row = int(np.flatnonzero(self.store.chip_ids == chip_id)[0])
        return self.store.read(array, np.array([row]))[0]

    def physical(self, array: str, chip_id: str) -> npt.NDArray[np.float64]:
        """(band, y, x) in physical units, NaN where nothing was observed."""
        return physical_of(self.spec(array), self.stored(array, chip_id))

    def centres(self, array: str, chip_id: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Easting and northing of the pixel centres of one array of a chip, (y, x) each, in the chip's CRS."""
        chip = self.plan.loc[chip_id]
        side = self.stored(array, chip_id).shape[-1]
        pixel = (chip["xmax"] - chip["xmin"]) / side
        steps = (np.arange(side) + 0.5) * pixel
        return tuple(np.meshgrid(chip["xmin"] + steps, chip["ymax"] - steps))  # type: ignore[return-value]
