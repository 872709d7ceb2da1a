"""Noise: smooth, bounded, the same everywhere and in every process."""

import subprocess
import sys

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.emulator.planet import utm
from m3etl.emulator.planet.noise import add_octave, frequency


def octave(x, y, z, freq=50.0, ridge=0.0, seed=3):
    out = np.zeros(np.size(x), np.float32)
    add_octave(np.ravel(x), np.ravel(y), np.ravel(z), freq, 1.0, ridge, seed, out)
    return out


def test_noise_is_continuous_across_cells_and_centred():
    t = np.linspace(-3.0, 3.0, 200_001)
    values = octave(t, 0.3 * t + 0.1, 0.2 - t, freq=5.0)
    assert np.abs(np.diff(values)).max() < 0.002
    assert abs(values.mean()) < 0.1
    assert 0.2 < values.std() < 0.6
    assert np.abs(values).max() < 2.0


def test_noise_does_not_depend_on_the_other_pixels():
    rng = np.random.default_rng(1)
    x, y, z = rng.uniform(-1, 1, (3, 1001))
    whole = octave(x, y, z)
    parts = np.concatenate([octave(x[i : i + 7], y[i : i + 7], z[i : i + 7]) for i in range(0, 1001, 7)])
    np.testing.assert_array_equal(whole, parts)


def test_seeds_give_unrelated_noise():
    rng = np.random.default_rng(2)
    x, y, z = rng.uniform(-1, 1, (3, 4000))
    first, second = octave(x, y, z, seed=1), octave(x, y, z, seed=2)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06


def test_ridged_noise_has_its_crests_at_the_zero_crossings():
    rng = np.random.default_rng(3)
    x, y, z = rng.uniform(-1, 1, (3, 4000))
    plain, ridged = octave(x, y, z), octave(x, y, z, ridge=1.0)
    np.testing.assert_allclose(ridged, 0.6 - 2.0 * np.abs(plain), atol=1e-5)


def test_noise_is_the_same_in_another_process():
    code = (
        "import numpy as np, hashlib\n"
        "from m3etl.emulator.planet.noise import add_octave\n"
        "x = np.linspace(-1, 1, 999); out = np.zeros(999, np.float32)\n"
        "add_octave(x, x[::-1].copy(), x * x, 700.0, 1.0, 0.5, 9, out)\n"
        "print(hashlib.sha256(out.tobytes()).hexdigest())"
    )
    prints = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(prints) == 1


def test_frequency_turns_a_wavelength_into_cycles():
    assert frequency(6371.0) == 1.0


@settings(deadline=None, max_examples=40)
@given(zone=st.integers(1, 60), south=st.booleans(), away=st.floats(-5, 5), lat=st.floats(-83.9, 83.9))
def test_utm_agrees_with_proj_and_comes_back(zone, south, away, lat):
    lon = np.array([6 * zone - 183 + away])
    x, y = utm.to_utm(zone, south, lon, np.array([lat]))
    proj = pyproj.Transformer.from_crs("EPSG:4326", utm.crs_of(zone, south), always_xy=True)
    expected = proj.transform(lon, [lat])
    np.testing.assert_allclose([x, y], expected, atol=1e-6)
    back = utm.from_utm(zone, south, x, y)
    assert back[0][0] == pytest.approx(lon[0], abs=1e-10)
    assert back[1][0] == pytest.approx(lat, abs=1e-10)


@pytest.mark.parametrize(
    ("crs", "zone"),
    [("EPSG:32632", (32, False)), ("EPSG:32701", (1, True)), ("EPSG:4326", None), ("EPSG:32661", None), ("x", None)],
)
def test_zone_of_reads_only_utm_codes(crs, zone):
    assert utm.zone_of(crs) == zone
