"""Submanifold sparse convolution by brute force: a dictionary of active positions, gathered one by one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from m3etl.learn.encoder import Block, ConvNeXtV2, Downsampling

Sites = Mapping[tuple[int, int], np.ndarray]


def sparse_encoder(
    encoder: ConvNeXtV2, image: np.ndarray, visible: np.ndarray, level: int = 0, observed: np.ndarray | None = None
) -> dict[tuple[int, int], np.ndarray]:
    """Features at the active positions of one image (C, H, W), given its visible pixels (H, W) and its observed values
    (C, H, W), both bool."""
    observed = np.ones(image.shape, bool) if observed is None else observed
    sites = {(y, x): (image * observed)[:, y, x] for y, x in zip(*np.nonzero(visible), strict=True)}
    sites = convolved(encoder.stem, sites)
    bias = {p: weights(encoder.level)[level] + weights(encoder.unobserved.weight) @ ~observed[:, *p] for p in sites}
    sites = {p: gelu(layer_norm(encoder.stem_norm, v + bias[p])) for p, v in sites.items()}
    sites = strided(encoder.reduce, sites)
    sites = {p: layer_norm(encoder.reduce_norm, v) for p, v in sites.items()}
    for downsampling, stage in zip([None, *encoder.downsamplings], encoder.stages, strict=True):
        if isinstance(downsampling, Downsampling):
            sites = {p: layer_norm(downsampling.norm, v) for p, v in sites.items()}
            sites = strided(downsampling.reduce, sites)
        for block in stage:
            sites = sparse_block(block, sites)
    return {p: layer_norm(encoder.norm, v) for p, v in sites.items()}


def sparse_block(block: Block, sites: Sites) -> dict[tuple[int, int], np.ndarray]:
    mixed = convolved(block.mix, sites)
    hidden = {p: gelu(linear(block.expand, layer_norm(block.norm, v))) for p, v in mixed.items()}
    energy = np.sqrt(sum(v**2 for v in hidden.values()))
    factor = energy / (energy.mean() + 1e-6)
    gain, bias = weights(block.response.gain), weights(block.response.bias)
    return {p: sites[p] + linear(block.contract, v + gain * v * factor + bias) for p, v in hidden.items()}


def convolved(layer: nn.Conv2d, sites: Sites) -> dict[tuple[int, int], np.ndarray]:
    """Stride 1: an output exactly where an input is active, summed over the active neighbours."""
    reach = layer.kernel_size[0] // 2
    result = {}
    for y, x in sites:
        total = weights(layer.bias).copy()
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                neighbour = sites.get((y + dy, x + dx))
                if neighbour is not None:
                    total += tap(layer, neighbour, dy + reach, dx + reach)
        result[y, x] = total
    return result


def strided(layer: nn.Conv2d, sites: Sites) -> dict[tuple[int, int], np.ndarray]:
    """Stride = kernel: an output where any input of the window is active, summed over the active ones."""
    step = layer.stride[0]
    result: dict[tuple[int, int], np.ndarray] = {}
    for (y, x), value in sites.items():
        target = (y // step, x // step)
        result.setdefault(target, weights(layer.bias).copy())
        result[target] = result[target] + tap(layer, value, y % step, x % step)
    return result


def tap(layer: nn.Conv2d, value: np.ndarray, row: int, column: int) -> np.ndarray:
    kernel = weights(layer.weight)[:, :, row, column]
    return kernel[:, 0] * value if layer.groups > 1 else kernel @ value


def layer_norm(layer: nn.LayerNorm, value: np.ndarray) -> np.ndarray:
    centred = value - value.mean()
    return centred / np.sqrt((centred**2).mean() + layer.eps) * weights(layer.weight) + weights(layer.bias)


def linear(layer: nn.Linear, value: np.ndarray) -> np.ndarray:
    return weights(layer.weight) @ value + weights(layer.bias)


def gelu(value: np.ndarray) -> np.ndarray:
    return torch.nn.functional.gelu(torch.from_numpy(value)).numpy()


def weights(parameter: torch.Tensor | None) -> np.ndarray:
    assert parameter is not None
    return parameter.detach().numpy()
