"""The whole model: bands by name, shapes of every head, independence, exactly zero gradients, overfitting one batch."""

from __future__ import annotations

import pytest
import torch
from fakes.learning import normalised_batch, specs_of, without

from m3etl.errors import InputError
from m3etl.learn.encoder import initialise
from m3etl.learn.losses import UncertaintyWeights, array_losses
from m3etl.learn.masking import draw_visible, hidden_of
from m3etl.learn.mpmae import InputBands, MaskedAutoencoder, ModelConfig, choose_targets, input_bands
from m3etl.spec.modality import Shape, Values


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def build(specs, **options) -> MaskedAutoencoder:
    config = ModelConfig(size="atto", patch_px=8, decoder_width=32, **options)
    model = MaskedAutoencoder(specs, choose_targets(specs), config)
    initialise(model, torch.Generator().manual_seed(0))
    return model


def masks(batch: int, patches: int = 16, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    visible = draw_visible(list(range(batch)), patches=patches, ratio=0.6, seed=0, step=step)
    return torch.from_numpy(visible), torch.from_numpy(hidden_of(visible, patches))


def test_every_array_of_the_catalogue_has_a_head_of_the_right_shape():
    specs = specs_of()
    batch = normalised_batch(specs, batch=2)
    model = build(specs)
    visible, hidden = masks(2)
    predictions = model(batch, visible, hidden)
    assert set(predictions) == {spec.name for spec in specs if spec.target}
    for spec in model.targets:
        place = (hidden.shape[1], 8, 8) if spec.shape is Shape.RASTER else ()
        scores = (spec.class_count,) if spec.values is Values.CLASSES else ()
        assert predictions[spec.name].shape == (2, *place, len(spec.bands), *scores)
    everywhere = model(batch, visible, hidden, everywhere=True)
    assert everywhere["worldcover"].shape == (2, 16, 8, 8, 1, 11)
    assert everywhere["ecoregion"].shape == (2, 1, 850)


def test_input_bands_are_taken_by_name_and_the_level_is_known():
    specs = specs_of("sentinel2_l2a", "sentinel2_l1c")
    batch = normalised_batch(specs, batch=3, observed=1.0)
    for spec in specs:
        for number, band in enumerate(spec.bands):
            batch[spec.name][:, number] = 100 * (spec.name == "sentinel2_l1c") + int(band[1:].replace("A", "5"))
    batch["sentinel2_l2a_valid"][1] = False
    picture = InputBands(specs)(batch)
    numbers = torch.tensor([float(band[1:].replace("A", "5")) for band in input_bands])
    assert picture.x.shape[1] == 12
    assert torch.equal(picture.x[0, :, 0, 0], numbers)
    assert torch.equal(picture.x[1, :, 0, 0], numbers + 100)
    assert picture.level.tolist() == [0, 1, 0]
    assert bool(picture.observed.all())


def test_a_data_set_with_one_level_works_and_without_any_is_refused():
    specs = specs_of("sentinel2_l1c")
    assert InputBands(specs)(normalised_batch(specs)).level.tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="needs one of sentinel2_l2a"):
        InputBands(specs_of("worldcover"))


@pytest.mark.parametrize("missing", ["sentinel1_asc", "worldcover", "biome", "era5_temperature", "aster_slope"])
def test_a_missing_modality_gives_exactly_zero_gradient(missing):
    specs = specs_of("sentinel2_l2a", "sentinel1_asc", "worldcover", "biome", "era5_temperature", "aster_slope")
    spec = next(item for item in specs if item.name == missing)
    model, weights = build(specs), UncertaintyWeights([item.name for item in specs])
    batch = without(normalised_batch(specs), spec)
    visible, hidden = masks(3)

    def total(arrays):
        return weights(array_losses(specs, model(arrays, visible, hidden), arrays, hidden, patch_px=8))

    loss = total(batch)
    loss.backward()
    for parameter in model.heads[missing].parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert weights.log_variance.grad[[item.name for item in specs].index(missing)] == 0
    assert model.encoder.stem.weight.grad.abs().max() > 0
    for parameter in model.heads[missing].parameters():
        parameter.data.add_(1.0)
    assert torch.equal(total(batch), loss)


def test_unobserved_pixels_of_a_target_have_no_gradient():
    specs = specs_of("sentinel2_l2a", "sentinel1_asc")
    model = build(specs)
    batch = normalised_batch(specs, observed=0.5)
    visible, hidden = masks(3)
    predictions = model(batch, visible, hidden)
    predictions["sentinel1_asc"].retain_grad()
    losses = array_losses(specs, predictions, batch, hidden, patch_px=8)
    losses["sentinel1_asc"].mean.backward()
    gradient = predictions["sentinel1_asc"].grad
    assert 0.4 < (gradient == 0).float().mean() < 0.6


def test_predictions_do_not_depend_on_the_batch():
    specs = specs_of("sentinel2_l2a", "worldcover", "biome")
    model = build(specs).double()
    batch = {
        name: value.double() if value.is_floating_point() else value for name, value in normalised_batch(specs).items()
    }
    visible, hidden = masks(3)
    together = model(batch, visible, hidden)
    for number in range(3):
        one = slice(number, number + 1)
        alone = model({name: value[one] for name, value in batch.items()}, visible[one], hidden[one])
        for name in together:
            torch.testing.assert_close(together[name][one], alone[name], rtol=0, atol=1e-10)


def test_skipping_hidden_patches_changes_nothing():
    specs = specs_of("sentinel2_l2a", "sentinel2_l1c", "worldcover", "month")
    skipping, dense = build(specs), build(specs, skip_hidden=False)
    batch = normalised_batch(specs)
    visible, hidden = masks(3)
    other = dense(batch, visible, hidden)
    for name, prediction in skipping(batch, visible, hidden).items():
        torch.testing.assert_close(prediction, other[name], rtol=0, atol=1e-5)


def test_the_model_overfits_one_batch():
    specs = specs_of("sentinel2_l2a", "worldcover", "biome", "month")
    batch = normalised_batch(specs, batch=2)
    colours = torch.linspace(-1.5, 1.5, 24).view(2, 12, 1, 1)
    batch["sentinel2_l2a"] = torch.where(batch["sentinel2_l2a_valid"], colours, 0.0)
    batch["worldcover"] = torch.where(batch["worldcover_valid"], torch.tensor([3, 7]).view(2, 1, 1, 1), -1)
    model = build(specs)
    visible, hidden = masks(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def losses():
        return array_losses(specs, model(batch, visible, hidden), batch, hidden, patch_px=8)

    before = {name: loss.mean.item() for name, loss in losses().items()}
    for _ in range(40):
        optimizer.zero_grad()
        sum(loss.mean for loss in losses().values()).backward()
        optimizer.step()
    for name, loss in losses().items():
        assert loss.mean.item() < 0.2 * before[name], name


def test_targets_can_be_named_and_label_families_left_out():
    specs = specs_of()
    assert "sentinel2_cloud" not in {spec.name for spec in choose_targets(specs)}
    left = {spec.name for spec in choose_targets(specs, leave_out=["biome"])}
    assert not left & {"biome", "ecoregion"}
    assert "geolocation" in left
    assert not {spec.name for spec in choose_targets(specs, leave_out=["dynamic_world"])} & {
        "dynamic_world",
        "worldcover",
    }
    assert [spec.name for spec in choose_targets(specs, names=["month", "biome"], leave_out=["land_cover"])] == [
        "biome",
        "month",
    ]


def test_wrong_targets_are_refused():
    specs = specs_of("sentinel2_l2a", "sentinel2_cloud", "biome")
    with pytest.raises(InputError, match="not in the data set: rainfall, moon"):
        choose_targets(specs, names=["rainfall"], leave_out=["moon"])
    with pytest.raises(InputError, match="sentinel2_cloud cannot be a pretext target"):
        choose_targets(specs, names=["sentinel2_cloud"])
    with pytest.raises(InputError, match="no pretext target is left"):
        choose_targets(specs, names=["biome"], leave_out=["biome"])
