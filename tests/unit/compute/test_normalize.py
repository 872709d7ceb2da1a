"""The normaliser against a float64 reference, on every transform, with missing bands, classes and small types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes.chips import all_specs, make_values

from m3etl.compute import fused, normalize
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


storages = {
    "int16": {},
    "uint16": {"dtype": "uint16", "fill": 65535, "valid_min": 0.0},
    "uint8": {"dtype": "uint8", "fill": 255, "valid_min": 0.0, "valid_max": 2.0},
    "float32": {"dtype": "float32", "fill": None, "valid_min": 0.0, "valid_max": 90.0},
}


@pytest.mark.parametrize("transform", list(Transform))
@pytest.mark.parametrize("storage", storages)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_transform_of_every_type_is_within_half_an_ulp(transform, storage, dtype):
    spec = replace(catalogue["aster_slope"], transform=transform, bands=("a", "b"), **storages[storage])
    stored = np.stack([make_values(spec, np.random.default_rng(seed)) for seed in range(3)])
    stats = {spec.name: summarise(spec, counted(spec, stored))}
    found = Normalizer.from_stats(stats, [spec])({spec.name: torch.from_numpy(stored)}, dtype)
    expected = reference(spec, stats, stored)
    values = found[spec.name].double().numpy()
    half_ulp = np.abs(expected) * torch.finfo(dtype).eps / 2
    own = 2e-6 * max(1.0, np.abs(expected).max())  # of float32 arithmetic before the last rounding
    assert (np.abs(values - expected) <= half_ulp + own).all()
    np.testing.assert_array_equal(found[f"{spec.name}_valid"].numpy(), valid_of(spec, stored))


def counted(spec, chips):
    counts = start_counts(spec)
    for chip in chips:
        counts.add(chip)
    return counts


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


@pytest.mark.parametrize("name", ["sentinel2_l2a", "sentinel1_asc", "canopy_height", "sentinel2_cloud", "worldcover"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_for_the_cpu_equal_torch_operations(data, name, dtype):
    stored, stats = data
    part = Normalizer.from_stats(stats, all_specs).parts[name]
    batch = torch.from_numpy(np.concatenate([stored[name]] * 120))
    values, valid = part(batch, dtype)
    strided = batch.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not normalize._is_for_kernels(strided)
    expected, expected_valid = part(strided, dtype)
    if values.is_floating_point():
        torch.testing.assert_close(values, expected, rtol=torch.finfo(dtype).eps, atol=2e-6)
    else:
        assert torch.equal(values, expected)
    assert torch.equal(valid, expected_valid)
    single, _ = part(batch[0], dtype)
    assert torch.equal(single, values[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_an_earlier_batch_is_used_again_where_it_fits(data, dtype):
    stored, stats = data
    normalizer = Normalizer.from_stats(stats, all_specs)
    batch = {name: torch.from_numpy(stored[name]) for name in ("sentinel2_l2a", "worldcover", "era5_temperature")}
    fresh = normalizer(batch, dtype)
    old = {name: torch.full_like(values, 1) for name, values in fresh.items()}
    again = normalizer(batch, dtype, out=old)
    for name, values in fresh.items():
        assert torch.equal(again[name], values), name
    assert again["sentinel2_l2a"] is old["sentinel2_l2a"]
    assert again["worldcover_valid"] is old["worldcover_valid"]
    fewer = normalizer({name: values[:2] for name, values in batch.items()}, dtype, out=old)
    assert torch.equal(fewer["sentinel2_l2a"], fresh["sentinel2_l2a"][:2])


@pytest.mark.parametrize("scale", [1e-8, 1e-6, 1e-5, 6e-5, 1.0, 300.0, 3e4])
def test_half_precision_bits_are_those_of_numpy(scale):
    values = np.random.default_rng(0).normal(0, scale, (1, 1, 20_000)).astype(np.float32)
    values[0, 0, :6] = [0.0, -0.0, 65504.0, 65519.9, 65520.0, -70000.0]
    plain = fused.BandScale(
        gain=np.ones(1, np.float32), shift=np.zeros(1, np.float32), usable=np.ones(1, bool), fill=np.nan, limit=np.inf
    )
    bits, valid = np.empty(values.shape, np.uint16), np.empty(values.shape, bool)
    fused.normalize_numbers(values, plain, bits, valid, kind="float16", threads=1)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(bits.view(np.float16), values.astype(np.float16))
    fused.normalize_numbers(values, plain, bits, valid, kind="bfloat16", threads=1)
    expected = torch.from_numpy(values).to(torch.bfloat16)
    assert torch.equal(torch.from_numpy(bits).view(torch.bfloat16), expected)
    assert valid.all()


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
