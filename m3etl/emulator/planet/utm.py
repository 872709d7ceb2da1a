"""Universal Transverse Mercator both ways for whole arrays (Krüger's series, WGS 84, errors below a micron).

Used instead of pyproj because a PROJ transformation has to be set up per thread and zone (some 10 ms each) and the
server answers each request in a thread of its own; the tests compare the two.
"""

from __future__ import annotations

import numpy as np

from m3etl.emulator.planet.noise import Floats

_A = 6378137.0
_F = 1 / 298.257223563
_N = _F / (2 - _F)
_E = np.sqrt(_F * (2 - _F))
_SCALE = 0.9996
_RADIUS = _A / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64 + _N**6 / 256)
# C. F. F. Karney, Transverse Mercator with an accuracy of a few nanometers (2011), equations 35 and 36
_ALPHA = (
    _N / 2 - 2 * _N**2 / 3 + 5 * _N**3 / 16 + 41 * _N**4 / 180 - 127 * _N**5 / 288 + 7891 * _N**6 / 37800,
    13 * _N**2 / 48 - 3 * _N**3 / 5 + 557 * _N**4 / 1440 + 281 * _N**5 / 630 - 1983433 * _N**6 / 1935360,
    61 * _N**3 / 240 - 103 * _N**4 / 140 + 15061 * _N**5 / 26880 + 167603 * _N**6 / 181440,
    49561 * _N**4 / 161280 - 179 * _N**5 / 168 + 6601661 * _N**6 / 7257600,
    34729 * _N**5 / 80640 - 3418889 * _N**6 / 1995840,
    212378941 * _N**6 / 319334400,
)
_BETA = (
    _N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96 - _N**4 / 360 - 81 * _N**5 / 512 + 96199 * _N**6 / 604800,
    _N**2 / 48 + _N**3 / 15 - 437 * _N**4 / 1440 + 46 * _N**5 / 105 - 1118711 * _N**6 / 3870720,
    17 * _N**3 / 480 - 37 * _N**4 / 840 - 209 * _N**5 / 4480 + 5569 * _N**6 / 90720,
    4397 * _N**4 / 161280 - 11 * _N**5 / 504 - 830251 * _N**6 / 7257600,
    4583 * _N**5 / 161280 - 108847 * _N**6 / 3991680,
    20648693 * _N**6 / 638668800,
)


def zone_of(crs: str) -> tuple[int, bool] | None:
    """Zone number and whether it is the southern one of "EPSG:326zz" or "EPSG:327zz"; None for any other code."""
    if len(crs) == 10 and crs[:8] in ("EPSG:326", "EPSG:327") and crs[8:].isdigit() and 1 <= int(crs[8:]) <= 60:
        return int(crs[8:]), crs[7] == "7"
    return None


def crs_of(zone: int, south: bool) -> str:
    """The EPSG code of a zone."""
    return f"EPSG:32{7 if south else 6}{zone:02d}"


def to_utm(zone: int, south: bool, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Easting and northing in metres of positions in degrees."""
    lam = np.radians((lon - (6 * zone - 183) + 180.0) % 360.0 - 180.0)
    sin_phi = np.sin(np.radians(lat))
    t = np.sinh(np.arctanh(sin_phi) - _E * np.arctanh(_E * sin_phi))
    xi = np.arctan2(t, np.cos(lam))
    eta = np.arcsinh(np.sin(lam) / np.hypot(t, np.cos(lam)))
    east, north = eta.copy(), xi.copy()
    for k, alpha in enumerate(_ALPHA, 1):
        east += alpha * np.cos(2 * k * xi) * np.sinh(2 * k * eta)
        north += alpha * np.sin(2 * k * xi) * np.cosh(2 * k * eta)
    return 500_000.0 + _SCALE * _RADIUS * east, (10_000_000.0 if south else 0.0) + _SCALE * _RADIUS * north


def from_utm(zone: int, south: bool, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Longitude (not wrapped) and latitude in degrees of positions in metres."""
    xi0 = (y - (10_000_000.0 if south else 0.0)) / (_SCALE * _RADIUS)
    eta0 = (x - 500_000.0) / (_SCALE * _RADIUS)
    xi, eta = xi0.copy(), eta0.copy()
    for k, beta in enumerate(_BETA, 1):
        xi -= beta * np.sin(2 * k * xi0) * np.cosh(2 * k * eta0)
        eta -= beta * np.cos(2 * k * xi0) * np.sinh(2 * k * eta0)
    t0 = np.sin(xi) / np.hypot(np.sinh(eta), np.cos(xi))
    t = t0.copy()
    for _ in range(3):  # Newton's method for the geographic latitude, equations 19 to 21
        root = np.sqrt(1 + t * t)
        sigma = np.sinh(_E * np.arctanh(_E * t / root))
        guess = t * np.sqrt(1 + sigma * sigma) - sigma * root
        t += (t0 - guess) / np.sqrt(1 + guess * guess) * (1 + (1 - _E**2) * t * t) / ((1 - _E**2) * root)
    return 6 * zone - 183 + np.degrees(np.arctan2(np.sinh(eta), np.cos(xi))), np.degrees(np.arctan(t))
