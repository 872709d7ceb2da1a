"""The masked encoder against a brute-force submanifold gather; the ordinary dense network; sizes and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.sparse import sparse_block, sparse_encoder

from m3etl.errors import InputError
from m3etl.learn.encoder import Block, ConvNeXtV2, build_encoder, encoder_sizes, initialise


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def small_encoder(patch_px: int = 8, levels: int = 2) -> ConvNeXtV2:
    encoder = ConvNeXtV2((1, 1, 2, 1), (4, 6, 8, 10), bands=3, patch_px=patch_px, levels=levels).double()
    randomise(encoder)
    return encoder


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.4


def random_image(px: int = 32, batch: int = 2, bands: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, bands, px, px, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def patch_mask(px: int, patch_px: int, hidden: list[int]) -> torch.Tensor:
    side = px // patch_px
    mask = torch.zeros(side * side, dtype=torch.bool)
    mask[hidden] = True
    return mask.view(1, side, side)


def dense_at(features: torch.Tensor, image: int, sites: dict) -> np.ndarray:
    return np.stack([features[image, :, y, x].detach().numpy() for y, x in sites])


@pytest.mark.parametrize("patch_px", [8, 16, 32])
def test_patch_mask_equals_submanifold_gather(patch_px):
    encoder = small_encoder(patch_px)
    px = 4 * patch_px if patch_px == 8 else 2 * patch_px
    image = random_image(px)
    hidden = [0, 3, 6, 7, 9, 12] if patch_px == 8 else [1]
    mask = patch_mask(px, patch_px, hidden).expand(2, -1, -1)
    observed = torch.rand(image.shape, generator=torch.Generator().manual_seed(6)) < 0.9
    features = encoder.forward_features(image, mask, level=torch.tensor([0, 1]), observed=observed)
    pixels = (~mask).repeat_interleave(patch_px, 1).repeat_interleave(patch_px, 2).numpy()
    for number in range(2):
        sites = sparse_encoder(
            encoder, image[number].numpy(), pixels[number], level=number, observed=observed[number].numpy()
        )
        assert len(sites) == (~mask[number]).sum()
        np.testing.assert_allclose(dense_at(features, number, sites), np.stack(list(sites.values())), atol=1e-9)
    assert torch.all(features.permute(0, 2, 3, 1)[mask] == 0)


def test_pixel_mask_equals_submanifold_gather_with_the_maxpool_rule():
    encoder = small_encoder(16)
    image = random_image(48, batch=1)
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(1, 48, 48, generator=generator) < 0.97
    mask[:, 16:32, 16:32] = True
    features = encoder.forward_features(image, mask)
    sites = sparse_encoder(encoder, image[0].numpy(), ~mask[0].numpy())
    np.testing.assert_allclose(dense_at(features, 0, sites), np.stack(list(sites.values())), atol=1e-9)
    occupied = features[0].abs().sum(0) > 0
    assert {(int(y), int(x)) for y, x in occupied.nonzero()} == set(sites)
    assert (1, 1) not in sites


def test_float32_error_is_below_1e_5():
    encoder = small_encoder(8)
    image = random_image(32, batch=1)
    mask = patch_mask(32, 8, [1, 2, 5, 8, 11, 14, 15])
    exact = encoder.forward_features(image, mask).detach()
    single = encoder.float().forward_features(image.float(), mask).detach()
    assert (exact - single).abs().max() < 1e-5 * max(1.0, float(exact.abs().max()))


def test_visible_only_path_equals_dense_path_with_gradients():
    encoder = small_encoder(16)
    image = random_image(64, batch=3)
    visible = torch.tensor([[0, 5, 6, 10, 15], [1, 2, 3, 7, 8], [4, 9, 11, 12, 14]])
    mask = torch.ones(3, 16, dtype=torch.bool).scatter_(1, visible, False).view(3, 4, 4)
    level = torch.tensor([1, 0, 1])
    observed = torch.rand(image.shape, generator=torch.Generator().manual_seed(2)) < 0.8
    dense = encoder.forward_features(image, mask, level=level, observed=observed)
    dense = dense.flatten(2).transpose(1, 2).gather(1, visible[..., None].expand(-1, -1, encoder.width))
    skipped = encoder.forward_visible(image, visible, level=level, observed=observed)
    torch.testing.assert_close(dense, skipped, rtol=0, atol=1e-10)
    parameters = list(encoder.parameters())
    weight = torch.randn(dense.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((dense * weight).sum(), parameters),
        torch.autograd.grad((skipped * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_hidden_pixels_do_not_reach_the_features():
    encoder = small_encoder(8)
    image = random_image(32)
    mask = patch_mask(32, 8, [0, 1, 4, 10]).expand(2, -1, -1)
    changed = torch.where(mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None], image + 100, image)
    assert torch.equal(encoder.forward_features(image, mask), encoder.forward_features(changed, mask))


def test_block_of_a_map_with_holes_equals_gather():
    block = Block(5).double()
    randomise(block)
    visible = torch.rand(1, 9, 9, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()
    x = random_image(9, 1, 5).permute(0, 2, 3, 1) * visible
    result = block(x, visible)
    sites = {(int(y), int(z)): x[0, y, z].numpy() for y, z in visible[0, :, :, 0].nonzero()}
    for (y, z), value in sparse_block(block, sites).items():
        np.testing.assert_allclose(result[0, y, z].detach().numpy(), value, atol=1e-10)


def test_an_all_visible_mask_is_the_ordinary_network():
    encoder = small_encoder(8)
    image = random_image(32)
    nothing = torch.zeros(2, 4, 4, dtype=torch.bool)
    torch.testing.assert_close(
        encoder.forward_features(image, nothing), encoder.forward_features(image), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(encoder(image, nothing), encoder(image), rtol=0, atol=1e-12)
    assert encoder(image).shape == (2, encoder.width)


def test_an_image_does_not_depend_on_its_batch():
    encoder = small_encoder(8)
    image = random_image(32, batch=4)
    visible = torch.tensor([[0, 5, 6], [1, 2, 3], [4, 9, 11], [13, 14, 15]])
    together = encoder.forward_visible(image, visible)
    for number in range(4):
        alone = encoder.forward_visible(image[number : number + 1], visible[number : number + 1])
        torch.testing.assert_close(together[number : number + 1], alone, rtol=0, atol=1e-12)


def test_unobserved_values_never_reach_the_features():
    encoder = small_encoder(8)
    image = random_image(32)
    observed = torch.rand(image.shape, generator=torch.Generator().manual_seed(5)) < 0.7
    noisy = torch.where(observed, image, torch.full_like(image, 1e6))
    assert torch.equal(encoder(image, observed=observed), encoder(noisy, observed=observed))
    assert not torch.equal(encoder(image, observed=observed), encoder(image))


def test_parameter_counts_and_shapes_of_the_sizes():
    encoder = build_encoder("atto", bands=12, patch_px=8, levels=2)
    assert encoder.width == 320
    assert 3.3e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 3.6e6
    assert encoder_sizes["huge"].widths[-1] == 2816
    assert encoder_sizes["tiny"].depths == (3, 3, 9, 3)
    with torch.no_grad():
        assert encoder.forward_features(torch.zeros(1, 12, 56, 56)).shape == (1, 320, 7, 7)


def test_initialisation_is_a_function_of_the_generator():
    one, other = (build_encoder("atto", bands=2, patch_px=16) for _ in range(2))
    initialise(one, torch.Generator().manual_seed(3))
    initialise(other, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert 0.015 < float(one.stem.weight.detach().std()) < 0.025


def test_wrong_requests_are_refused():
    with pytest.raises(InputError, match="unknown model size: mega"):
        build_encoder("mega", bands=12, patch_px=16)
    with pytest.raises(InputError, match="patch_px = 12"):
        build_encoder("atto", bands=12, patch_px=12)
    with pytest.raises(ValueError, match="neither of pixels nor of patches"):
        small_encoder(8)(random_image(32), torch.zeros(2, 3, 3, dtype=torch.bool))
