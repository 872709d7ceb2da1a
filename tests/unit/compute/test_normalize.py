"""The normaliser against a float64 reference, on every transform, with missing bands, classes and small types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes.chips import all_specs, make_values

from m3etl.compute.normalize import Normalizer, limit
from m3etl.compute.stats import start_counts, summarise
from m3etl.errors import InputError
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import Transform, Values, physical_of, valid_of


@pytest.fixture(scope="module")
def data():
    """Four chips of every array, stacked, and the statistics over them."""
    stored, stats = {}, {}
    for spec in all_specs:
        rng = np.random.default_rng(len(spec.name))
        stored[spec.name] = np.stack([make_values(spec, rng) for _ in range(4)])
        counts = start_counts(spec)
        for chip in stored[spec.name]:
            counts.add(chip)
        stats[spec.name] = summarise(spec, counts)
    return stored, stats


def batch_of(stored):
    return {name: torch.from_numpy(values) for name, values in stored.items()}


def reference(spec, stats, stored):
    """The same in float64 numpy, band by band."""
    physical = physical_of(spec, stored)
    result = np.empty_like(physical)
    for position, band in enumerate(spec.bands):
        part, known = physical[:, position], stats[spec.name][band]
        match spec.transform:
            case Transform.ZSCORE:
                value = (part - known["mean"]) / (known["std"] or 1)
            case Transform.ROBUST:
                value = (part - known["p50"]) / ((known["p75"] - known["p25"]) / 1.349)
            case Transform.MINMAX:
                value = (part - known["p01"]) / (known["p99"] - known["p01"])
            case Transform.LOG_ZSCORE:
                value = (np.log1p(part / known["log_scale"]) - known["log_mean"]) / known["log_std"]
            case Transform.NONE:
                value = part
        result[:, position] = value if spec.transform is Transform.NONE else np.clip(value, -limit, limit)
    return np.where(valid_of(spec, stored), result, 0.0)


@pytest.mark.parametrize("spec", [s for s in all_specs if s.values is not Values.CLASSES], ids=lambda spec: spec.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equals_the_float64_reference(data, spec, dtype):
    stored, stats = data
    found = Normalizer.from_stats(stats, all_specs)({spec.name: torch.from_numpy(stored[spec.name])}, dtype)
    assert found[spec.name].dtype == dtype
    expected = reference(spec, stats, stored[spec.name])
    unit = torch.finfo(dtype).eps / 2
    error = np.abs(found[spec.name].double().numpy() - expected)
    assert (error <= np.abs(expected) * unit * 1.001 + 4e-6 * max(1.0, np.abs(expected).max())).all()
    valid = valid_of(spec, stored[spec.name])
    np.testing.assert_array_equal(found[f"{spec.name}_valid"].numpy(), valid)
    assert (found[spec.name].float().numpy()[~valid] == 0).all()


@pytest.mark.parametrize("transform", [Transform.ROBUST, Transform.MINMAX, Transform.LOG_ZSCORE])
def test_other_transforms_of_integers(transform):
    spec = replace(catalogue["aster_slope"], transform=transform)
    stored = np.stack([make_values(spec, np.random.default_rng(seed)) for seed in range(3)])
    counts = start_counts(spec)
    for chip in stored:
        counts.add(chip)
    stats = {spec.name: summarise(spec, counts)}
    found = Normalizer.from_stats(stats, [spec])({spec.name: torch.from_numpy(stored)})
    np.testing.assert_allclose(found[spec.name].numpy(), reference(spec, stats, stored), atol=2e-5)


def test_optical_is_robust_and_precipitation_logarithmic():
    assert catalogue["sentinel2_l2a"].transform is Transform.ROBUST
    assert catalogue["era5_precipitation"].transform is Transform.LOG_ZSCORE


@pytest.mark.parametrize("spec", [s for s in all_specs if s.values is Values.CLASSES], ids=lambda spec: spec.name)
def test_classes_become_indexes(data, spec):
    stored, stats = data
    normalizer = Normalizer.from_stats(stats, all_specs)
    values = stored[spec.name].copy()
    values.reshape(-1)[0] = spec.fill
    found = normalizer({spec.name: torch.from_numpy(values)})
    codes = [item.code for item in spec.classes] or list(range(spec.class_limit))
    expected = np.array([codes.index(code) if code in codes else -1 for code in values.reshape(-1).tolist()])
    np.testing.assert_array_equal(found[spec.name].numpy().reshape(-1), expected)
    assert found[spec.name].dtype == torch.int64
    np.testing.assert_array_equal(found[f"{spec.name}_valid"].numpy().reshape(-1), expected >= 0)
    back = normalizer.inverse(spec.name, found[spec.name]).numpy()
    np.testing.assert_array_equal(back[found[spec.name].numpy() >= 0], values[found[spec.name].numpy() >= 0])


def test_a_code_outside_the_table_is_invalid():
    spec = catalogue["worldcover"]
    found = Normalizer.from_stats({}, [spec])({spec.name: torch.tensor([[[11, 10]]], dtype=torch.uint8)})
    assert found["worldcover"].tolist() == [[[-1, 0]]]


@pytest.mark.parametrize("name", ["sentinel2_l2a", "sentinel1_asc", "era5_precipitation", "era5_temperature", "month"])
def test_inverse_gives_physical_values(data, name):
    stored, stats = data
    spec = catalogue[name]
    normalizer = Normalizer.from_stats(stats, all_specs)
    found = normalizer({name: torch.from_numpy(stored[name])})
    physical = normalizer.inverse(name, found[name]).numpy()
    inside = found[f"{name}_valid"].numpy() & (np.abs(found[name].numpy()) < limit)
    np.testing.assert_allclose(physical[inside], physical_of(spec, stored[name])[inside], rtol=2e-5, atol=1e-4)


def test_no_statistics_means_zero_and_invalid():
    spec = catalogue["aster_slope"]
    stats = {spec.name: summarise(spec, start_counts(spec))}
    normalizer = Normalizer.from_stats(stats, [spec])
    found = normalizer({spec.name: torch.full((2, 1, 3, 3), 100, dtype=torch.int16)})
    assert (found["aster_slope"] == 0).all()
    assert not found["aster_slope_valid"].any()
    assert normalizer.inverse("aster_slope", found["aster_slope"]).isnan().all()


def test_constant_band_is_zero_and_valid():
    spec = catalogue["aster_elevation"]
    counts = start_counts(spec)
    counts.add(np.full((1, 3, 3), 12, np.int16))
    found = Normalizer.from_stats({spec.name: summarise(spec, counts)}, [spec])(
        {spec.name: torch.full((1, 3, 3), 12, dtype=torch.int16)}
    )
    assert (found[spec.name] == 0).all()
    assert found[f"{spec.name}_valid"].all()


def test_outliers_are_clipped(data):
    _, stats = data
    values = torch.full((1, 12, 2, 2), 65534, dtype=torch.uint16)
    found = Normalizer.from_stats(stats, all_specs)({"sentinel2_l2a": values})
    assert found["sentinel2_l2a"].max() == limit


def test_other_keys_pass_through_and_missing_arrays_are_named(data):
    _, stats = data
    row = torch.arange(3)
    assert Normalizer.from_stats(stats, all_specs)({"row": row})["row"] is row
    with pytest.raises(InputError, match="sentinel2_l1c, sentinel1_asc"):
        Normalizer.from_stats(
            {"sentinel2_l2a": stats["sentinel2_l2a"]},
            [s for s in all_specs if s.name in ("sentinel2_l2a", "sentinel2_l1c", "sentinel1_asc")],
        )


def test_state_travels_with_the_module(data):
    stored, stats = data
    one = Normalizer.from_stats(stats, all_specs)
    other = Normalizer.from_stats(
        {
            name: {
                band: {**known, "mean": 0.0, "p50": 0.0} if "mean" in known else known for band, known in bands.items()
            }
            for name, bands in stats.items()
        },
        all_specs,
    )
    other.load_state_dict(one.state_dict())
    for name in ("sentinel2_l2a", "aster_slope"):
        torch.testing.assert_close(one(batch_of(stored))[name], other(batch_of(stored))[name])


def test_whole_graph_can_be_compiled(data):
    stored, stats = data
    names = ("sentinel2_l2a", "sentinel1_asc", "worldcover", "era5_precipitation")
    normalizer = Normalizer.from_stats(stats, all_specs)
    batch = {name: torch.from_numpy(stored[name]) for name in names}
    compiled = torch.compile(normalizer, fullgraph=True, backend="eager")
    for name, value in compiled(batch).items():
        torch.testing.assert_close(value, normalizer(batch)[name])


@pytest.mark.parametrize("name", ["sentinel2_l2a", "sentinel1_asc", "canopy_height", "sentinel2_cloud"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_for_the_cpu_equals_torch_operations(data, name, dtype):
    stored, stats = data
    part = Normalizer.from_stats(stats, all_specs).parts[name]
    batch = torch.from_numpy(np.concatenate([stored[name]] * 30))
    assert part._is_fusable(batch, dtype)
    values, valid = part(batch, dtype)
    strided = batch.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not part._is_fusable(strided, dtype)
    expected, expected_valid = part(strided, dtype)
    torch.testing.assert_close(values, expected, rtol=torch.finfo(dtype).eps, atol=2e-6)
    assert torch.equal(valid, expected_valid)
    single, _ = part(batch[0], dtype)
    assert torch.equal(single, values[0])


def test_the_kernel_for_the_cpu_knows_bands_without_statistics():
    spec = catalogue["canopy_height"]
    counts = start_counts(spec)
    counts.add(np.stack([np.full((2, 2), 7, np.uint8), np.full((2, 2), 255, np.uint8)]))
    normalizer = Normalizer.from_stats({spec.name: summarise(spec, counts)}, [spec])
    for dtype in (torch.float32, torch.bfloat16):
        found = normalizer({spec.name: torch.full((3, 2, 2, 2), 9, dtype=torch.uint8)}, dtype)
        assert (found[spec.name][:, 0] == 2).all()
        assert (found[spec.name][:, 1] == 0).all()
        assert found["canopy_height_valid"].all(dim=(0, 2, 3)).tolist() == [True, False]
