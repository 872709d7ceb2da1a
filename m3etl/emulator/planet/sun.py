"""Where the sun stands."""

from __future__ import annotations

import math

_DAY_S = 86_400.0


def sun_angles(lon: float, lat: float, time_s: float) -> tuple[float, float]:
    """Zenith angle and azimuth from north of the sun in degrees at a place and UTC time (seconds since 1970)."""
    days = time_s / _DAY_S
    year = 2.0 * math.pi * ((days % 365.25) - 80.0) / 365.25
    declination = math.radians(23.44) * math.sin(year)
    hour = math.radians((days % 1.0) * 360.0 - 180.0 + lon)
    phi = math.radians(lat)
    cosine = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(hour)
    east = -math.cos(declination) * math.sin(hour)
    north = math.cos(phi) * math.sin(declination) - math.sin(phi) * math.cos(declination) * math.cos(hour)
    zenith = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    return zenith, math.degrees(math.atan2(east, north)) % 360.0
