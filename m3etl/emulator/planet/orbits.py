"""Sun-synchronous repeat orbits: when a satellite passes a place, how far off its track, and when it comes back.

Circular orbits around a turning sphere: enough for swaths, revisit times and local solar times as on Earth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from m3etl.emulator.planet.noise import EARTH_RADIUS_KM, Floats

DAY_S = 86_400.0
_TURN = 2.0 * math.pi


def seconds(text: str) -> float:
    """Seconds since 1970-01-01 UTC of an ISO date or time."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def stamp(time_s: float) -> str:
    """A time as the products write it, e.g. 20200408T143729."""
    return _stamp(math.floor(time_s))


@functools.lru_cache(maxsize=65536)
def _stamp(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y%m%dT%H%M%S")


LAST_S = seconds("2026-01-01")
"""The planet has no images from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Satellite:
    """One of several satellites on an orbit: its name, service life and lead over the first in cycles."""

    name: str
    first_s: float
    last_s: float
    lead: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orbit:
    """A repeat orbit of `tracks` revolutions in `cycle_s` seconds.

    At `epoch_s` the first satellite crosses the equator northwards at `node_lon` degrees.
    """

    epoch_s: float
    node_lon: float
    inclination_deg: float
    tracks: int
    cycle_s: float
    satellites: tuple[Satellite, ...]

    @property
    def period_s(self) -> float:
        return self.cycle_s / self.tracks

    def nodes(self) -> Floats:
        """Longitudes of the ascending nodes of every track, (tracks,)."""
        return np.asarray(self.node_lon - 360.0 * np.arange(self.tracks) * (self.period_s / DAY_S), np.float64)

    def place(self, node: Floats, argument: Floats, across_km: Floats) -> tuple[Floats, Floats]:
        """Longitude and latitude of points given by the angle along the orbit and the distance left of the track."""
        first, second, normal = self._axes(node, argument)
        d = across_km / EARTH_RADIUS_KM
        p = np.cos(d) * (np.cos(argument) * first + np.sin(argument) * second) + np.sin(d) * normal
        lat = np.arcsin(np.clip(p[2], -1.0, 1.0))
        return np.asarray(np.degrees(np.arctan2(p[1], p[0])), np.float64), np.asarray(np.degrees(lat), np.float64)

    def locate(self, node: Floats, lon: Floats, lat: Floats, ascending: bool) -> tuple[Floats, Floats]:
        """Angle along the orbit (radians, 0 at the ascending node) and km left of the track of positions in degrees.

        Angles of the ascending half lie in [-pi/2, pi/2], of the descending one in [pi/2, 3 pi/2].
        """
        phi, lam = np.radians(lat), np.radians(lon)
        p = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
        sine = np.clip(np.sin(phi) / math.sin(math.radians(self.inclination_deg)), -1.0, 1.0)
        angle = np.arcsin(sine) if ascending else math.pi - np.arcsin(sine)
        angle = np.broadcast_to(angle, np.broadcast_shapes(np.shape(node), np.shape(lon)))
        for _ in range(3):
            first, second, normal = self._axes(node, angle)
            found = np.arctan2((p * second).sum(0), (p * first).sum(0))
            angle = found + _TURN * np.round((angle - found) / _TURN)
        _, _, normal = self._axes(node, angle)
        return angle, EARTH_RADIUS_KM * np.arcsin(np.clip((p * normal).sum(0), -1.0, 1.0))

    def _axes(self, node: Floats, argument: Floats) -> tuple[Floats, Floats, Floats]:
        """The orbit plane as it stands over the turning Earth: towards the node, 90 degrees on, and its normal."""
        omega = np.radians(node - 360.0 * (argument / _TURN) * (self.period_s / DAY_S))
        tilt = math.radians(self.inclination_deg)
        zero = np.zeros_like(omega)
        first = np.stack([np.cos(omega), np.sin(omega), zero])
        second = np.stack([-math.cos(tilt) * np.sin(omega), math.cos(tilt) * np.cos(omega), zero + math.sin(tilt)])
        normal = np.stack([math.sin(tilt) * np.sin(omega), -math.sin(tilt) * np.cos(omega), zero + math.cos(tilt)])
        return first, second, normal

    def passes(self, track: int, argument: float, start_s: float, end_s: float) -> Iterator[tuple[float, int]]:
        """Times in [start_s, end_s) at which satellites (by number) are at an angle of a track, in order."""
        offset = self.epoch_s + track * self.period_s + argument / _TURN * self.period_s
        times = []
        for number, satellite in enumerate(self.satellites):
            own = offset + satellite.lead * self.cycle_s
            low, high = max(start_s, satellite.first_s), min(end_s, satellite.last_s, LAST_S)
            first = math.ceil((low - own) / self.cycle_s)
            times.append((own, first, high, number))
        queue = sorted((own + first * self.cycle_s, number) for own, first, high, number in times)
        ends = {number: high for _, _, high, number in times}
        while queue:
            time_s, number = queue.pop(0)
            if time_s >= ends[number]:
                continue
            yield time_s, number
            queue.append((time_s + self.cycle_s, number))
            queue.sort()

    def revolution(self, time_s: float, argument: float, satellite: int) -> tuple[int, float]:
        """The revolution that is nearest to an angle at a time, and its exact time there.

        Its track is its number modulo `tracks`.
        """
        offset = self.epoch_s + argument / _TURN * self.period_s + self.satellites[satellite].lead * self.cycle_s
        number = round((time_s - offset) / self.period_s)
        return number, offset + number * self.period_s
