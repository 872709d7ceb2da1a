"""Losses by hand; what was not observed changes neither a loss nor a gradient; weighting of tasks."""

from __future__ import annotations

import math

import pytest
import torch
from fakes.learning import normalised_batch, specs_of

from m3etl.errors import InputError
from m3etl.learn.losses import (
    ArrayLoss,
    FixedWeights,
    UncertaintyWeights,
    array_losses,
    build_weights,
    class_loss,
    patch_statistics,
    squared_loss,
)
from m3etl.learn.mpmae import patches_of, pick_patches, raster_of


def test_squared_loss_counts_observed_elements_only():
    prediction = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    loss = squared_loss(prediction, torch.tensor([0.0, float("nan"), 2.0]), torch.tensor([True, False, True]))
    assert loss.mean.item() == pytest.approx((1 + 9) / 2)
    loss.mean.backward()
    assert prediction.grad is not None
    assert prediction.grad.tolist() == [1.0, 0.0, 3.0]


def test_class_loss_ignores_minus_one():
    scores = torch.zeros(1, 3, 4)
    loss = class_loss(scores, torch.tensor([[0, -1, 3]]))
    assert loss.count.item() == 2
    assert loss.mean.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("make", ["squared", "class"])
def test_nothing_observed_gives_zero_loss_and_zero_gradient(make):
    prediction = torch.randn(2, 5, 3, requires_grad=True)
    if make == "squared":
        loss = squared_loss(prediction, torch.full((2, 5, 3), float("nan")), torch.zeros(2, 5, 3, dtype=torch.bool))
    else:
        loss = class_loss(prediction, torch.full((2, 5), -1))
    loss.mean.backward()
    assert loss.mean.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


def test_patches_and_back():
    raster = torch.arange(2 * 3 * 16 * 24, dtype=torch.float32).view(2, 3, 16, 24)
    patches = patches_of(raster, 8)
    assert patches.shape == (2, 6, 8, 8, 3)
    assert torch.equal(patches[1, 4, 2, 5], raster[1, :, 8 + 2, 8 + 5])
    assert torch.equal(raster_of(patches, 3), raster)
    numbers = torch.tensor([[5, 0], [1, 2]])
    assert torch.equal(pick_patches(patches, numbers)[1, 0], patches[1, 1])


def test_patch_statistics_use_observed_values_of_all_bands_together():
    target = torch.tensor([1.0, 3.0, 100.0, 5.0]).view(1, 1, 1, 2, 2)
    valid = torch.tensor([True, True, False, True]).view(1, 1, 1, 2, 2)
    mean, deviation = patch_statistics(target, valid)
    assert mean.item() == pytest.approx(3.0)
    assert deviation.item() == pytest.approx(math.sqrt(8 / 3), rel=1e-5)


def test_only_hidden_patches_enter_the_raster_loss():
    specs = specs_of("canopy_height")
    batch = normalised_batch(specs, observed=1.0)
    hidden = torch.tensor([[0], [3], [2]])
    predictions = {"canopy_height": torch.zeros(3, 1, 16, 16, 2)}
    first = array_losses(specs, predictions, batch, hidden, patch_px=16)["canopy_height"]
    assert first.count.item() == 3 * 16 * 16 * 2
    changed = {**batch, "canopy_height": batch["canopy_height"].clone()}
    changed["canopy_height"][0, :, :, 16:] += 50
    assert array_losses(specs, predictions, changed, hidden, patch_px=16)["canopy_height"].total == first.total
    changed["canopy_height"][0, :, :16, :16] += 50
    assert array_losses(specs, predictions, changed, hidden, patch_px=16)["canopy_height"].total > first.total


def test_patch_normalised_targets_have_unit_scale():
    specs = specs_of("sentinel2_l2a")
    batch = normalised_batch(specs, observed=1.0)
    batch["sentinel2_l2a"] = batch["sentinel2_l2a"] * 7 + 3
    hidden = torch.tensor([[0, 1]] * 3)
    predictions = {"sentinel2_l2a": torch.zeros(3, 2, 16, 16, 12)}
    loss = array_losses(specs, predictions, batch, hidden, patch_px=16, patch_normalised=["sentinel2_l2a"])
    assert loss["sentinel2_l2a"].mean.item() == pytest.approx(1.0, rel=1e-4)


def loss_of(value: float, count: float) -> ArrayLoss:
    return ArrayLoss(torch.tensor(value * count, requires_grad=True), torch.tensor(count))


def test_uncertainty_weights_follow_the_formula_and_leave_out_what_is_absent():
    weights = UncertaintyWeights(["a", "b", "c"])
    weights.log_variance.data = torch.tensor([0.5, -1.0, 2.0])
    losses = {"a": loss_of(3.0, 4), "b": loss_of(0.25, 8), "c": loss_of(0.0, 0)}
    total = weights(losses)
    assert total.item() == pytest.approx(3 * math.exp(-0.5) + 0.5 + 0.25 * math.exp(1) - 1)
    total.backward()
    assert weights.log_variance.grad is not None
    assert weights.log_variance.grad[2].item() == 0
    assert losses["c"].total.grad is not None
    assert weights.log_variance.grad[0].item() == pytest.approx(1 - 3 * math.exp(-0.5))


def test_fixed_weights_are_a_plain_weighted_sum():
    total = FixedWeights(["a", "b"], {"b": 0.5})({"a": loss_of(3.0, 4), "b": loss_of(2.0, 8)})
    assert total.item() == pytest.approx(4.0)
    assert not list(FixedWeights(["a"]).parameters())
    with pytest.raises(InputError, match="names z"):
        FixedWeights(["a"], {"z": 1.0})


def test_unknown_weighting_is_refused():
    with pytest.raises(InputError, match="weighting = magic"):
        build_weights(["a"], "magic", {})
    with pytest.raises(InputError, match="weighting = uncertainty with 1 fixed"):
        build_weights(["a"], "uncertainty", {"a": 2.0})
