"""Made-up S1-GUNW products in the layouts of versions 2 and 3: a phase ramp, two components with a gap between them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import shapely

step = 1 / 1200
heights = np.array([-1500.0, 0.0, 3000.0, 9000.0])
ramp = (3.0, -2.0)  # radians per degree east and north
offsets = {1: 5.0, 2: -11.0}
names = {
    2: "S1-GUNW-D-R-064-tops-20200112_20191231-015040-00012E_00047N-PP-9c1d-v2_0_6.nc",
    3: "S1-GUNW-D-R-064-tops-20200112_20191231-015040-00012E_00047N-PP-9c1d-v3_0_1.nc",
}


def product_name(
    days: int,
    *,
    reference: str = "2020-01-12",
    way: str = "D",
    track: int = 64,
    version: str = "2_0_6",
    tag: str = "9c1d",
) -> str:
    """The file name of a pair of dates `days` apart."""
    newer = datetime.fromisoformat(reference)
    dates = f"{newer:%Y%m%d}_{newer - timedelta(days=days):%Y%m%d}"
    return f"S1-GUNW-{way}-R-{track:03d}-tops-{dates}-015040-00012E_00047N-PP-{tag}-v{version}.nc"


@dataclass(frozen=True, kw_only=True)
class Made:
    """Where the product lies in degrees; its pixels a side; the column of the gap between the components."""

    west: float = 12.0
    north: float = 48.0
    side: int = 240
    gap: int = 120

    @property
    def longitude(self) -> np.ndarray:
        return self.west + (np.arange(self.side) + 0.5) * step

    @property
    def latitude(self) -> np.ndarray:
        return self.north - (np.arange(self.side) + 0.5) * step

    def ramp(self) -> np.ndarray:
        """The true phase, before each component's offset."""
        lat, lon = np.meshgrid(self.latitude, self.longitude, indexing="ij")
        return ramp[0] * (lon - self.west) + ramp[1] * (lat - self.north)

    def component(self) -> np.ndarray:
        label = np.ones((self.side, self.side))
        label[:, self.gap + 5 :] = 2
        label[:, self.gap : self.gap + 5] = 0
        label[:3] = -1
        return label


def ionosphere(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    return 0.4 * (lon - 12.0) + 0.1 * (lat - 47.0)


def tide(lat: np.ndarray, lon: np.ndarray, height: np.ndarray) -> np.ndarray:
    return 0.05 * (lat - 47.0) + 1e-5 * height + 0 * lon


def troposphere(lat: np.ndarray, lon: np.ndarray, height: np.ndarray) -> np.ndarray:
    return 0.3 * (lat - 47.0) - 0.2 * (lon - 12.0) - 2e-4 * height


def write_product(directory: Path, made: Made, *, version: int = 2, name: str | None = None) -> Path:
    """The product with its name; version 3 has ionosphere, tide and troposphere added to its phase."""
    path = directory / (name or names[version])
    lat, lon = np.meshgrid(made.latitude, made.longitude, indexing="ij")
    label = made.component()
    phase = made.ramp() + np.vectorize(lambda item: offsets.get(int(item), 0.0))(label)
    if version == 3:
        terrain = np.full(lat.shape, 1500.0)
        phase = phase + ionosphere(lat, lon) + tide(lat, lon, terrain) + troposphere(lat, lon, terrain)
    phase = np.where(label > 0, phase, 0.0)
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        corners = [made.west, made.north - made.side * step, made.west + made.side * step, made.north]
        wkt = shapely.to_wkt(shapely.box(*corners)).encode()
        file["productBoundingBox"] = np.frombuffer(wkt + b"\0" * (200 - len(wkt)), dtype="S1").reshape(1, -1)
        data = file.create_group("science/grids/data")
        data["latitude"], data["longitude"] = made.latitude, made.longitude
        noise = rng.uniform(0.6, 0.99, phase.shape)
        fields = {
            "unwrappedPhase": phase,
            "coherence": np.where(label > 0, noise, 0.0),
            "amplitude": rng.gamma(4.0, 0.1, phase.shape),
            "connectedComponents": label,
        }
        for field, values in fields.items():
            data.create_dataset(field, data=values.astype("f4"), chunks=(60, 60), compression="gzip", shuffle=True)
        _write_geometry(file, made)
        if version == 3:
            _write_corrections(file, made)
        else:
            file["science/grids/corrections/derived/ionosphere/ionosphere"] = b"not computed"
    return path


def _nodes(made: Made, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    extent = made.side * step
    lat = np.arange(made.north + 2 * spacing, made.north - extent - 2.5 * spacing, -spacing)
    lon = np.arange(made.west - 2 * spacing, made.west + extent + 2.5 * spacing, spacing)
    return lat, lon


def _write_geometry(file: h5py.File, made: Made) -> None:
    lat, lon = _nodes(made, 0.1)
    group = file.create_group("science/grids/imagingGeometry")
    group["heightsMeta"], group["latitudeMeta"], group["longitudeMeta"] = heights, lat, lon
    shape = (len(heights), len(lat), len(lon))
    east = np.broadcast_to(lon, shape)
    group["incidenceAngle"] = (38.0 + 2.0 * (east - 12.0)).astype("f4")
    group["perpendicularBaseline"] = np.broadcast_to(heights[:, None, None] * 0.01 + 50.0, shape).astype("f4")


def _write_corrections(file: h5py.File, made: Made) -> None:
    lat, lon = _nodes(made, 11 * step)
    group = file.create_group("science/grids/corrections/derived/ionosphere")
    group["latitude"], group["longitude"] = lat, lon
    group["ionosphere"] = ionosphere(*np.meshgrid(lat, lon, indexing="ij")).astype("f4")
    lat, lon = _nodes(made, 0.1)
    z, y, x = np.meshgrid(heights, lat, lon, indexing="ij")
    for date, share in (("reference", 1.5), ("secondary", 0.5)):
        group = file.create_group(f"science/grids/corrections/external/tides/solidEarth/{date}")
        group["heightsMeta"], group["latitudeMeta"], group["longitudeMeta"] = heights, lat, lon
        group["solidEarthTide"] = (share * tide(y, x, z)).astype("f4")
    lat, lon = _nodes(made, 0.05)
    levels = np.arange(-500.0, 9001.0, 500.0)
    z, y, x = np.meshgrid(levels, lat, lon, indexing="ij")
    for date, share in (("reference", 2.0), ("secondary", 1.0)):
        group = file.create_group(f"science/grids/corrections/external/troposphere/HRRR/{date}")
        group["heightsMeta"], group["latitudeMeta"], group["longitudeMeta"] = levels, lat, lon
        for name, part in (("troposphereWet", 0.3), ("troposphereHydrostatic", 0.7)):
            group[name] = (share * part * troposphere(y, x, z)).astype("f4")
