"""ConvNeXt V2 with MMEarth's stem. With a mask it equals submanifold sparse convolution at the visible positions,
computed densely with re-masking (any mask) or on the visible patches only (patch masks)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from m3etl.errors import InputError

layer_norm_eps = 1e-6
response_eps = 1e-6  # ConvNeXt V2, arXiv 2301.00808, appendix A; the official code uses the same
least_energy = 1e-30  # keeps the gradient of the square root finite for a channel that is zero everywhere
sparse_stride = 8  # the stem reduces by patch_px / 8, then three downsamplings reduce by 2 each


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSize:
    """Blocks and channels of the four stages (arXiv 2301.00808, table 15 and the official model file)."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]


def _size(depths: tuple[int, int, int, int], width: int) -> EncoderSize:
    return EncoderSize(depths=depths, widths=(width, 2 * width, 4 * width, 8 * width))


encoder_sizes: Mapping[str, EncoderSize] = {
    "atto": _size((2, 2, 6, 2), 40),
    "femto": _size((2, 2, 6, 2), 48),
    "pico": _size((2, 2, 6, 2), 64),
    "nano": _size((2, 2, 8, 2), 80),
    "tiny": _size((3, 3, 9, 3), 96),
    "base": _size((3, 3, 27, 3), 128),
    "large": _size((3, 3, 27, 3), 192),
    "huge": _size((3, 3, 27, 3), 352),
}


def build_encoder(size: str, *, bands: int, patch_px: int, levels: int = 1) -> ConvNeXtV2:
    """The encoder of a named size. `levels`: how many kinds of input (e.g. L2A and L1C) it tells apart."""
    if size not in encoder_sizes:
        raise InputError(f"unknown model size: {size}", hint=f"Known sizes: {', '.join(encoder_sizes)}.")
    shape = encoder_sizes[size]
    return ConvNeXtV2(shape.depths, shape.widths, bands=bands, patch_px=patch_px, levels=levels)


class ConvNeXtV2(nn.Module):
    """ConvNeXt V2: stem (3x3 convolution, LayerNorm, GELU, depthwise convolution with kernel = stride = patch_px / 8,
    LayerNorm), four stages with 2x2 downsampling between them, LayerNorm.

    Total stride = patch_px (8, 16 or 32). A mask is True where the network must not see: (B, H / patch_px,
    W / patch_px) for whole patches, or (B, H, W) for pixels; a position of a coarser stage is visible when any pixel
    under it is.
    """

    def __init__(
        self, depths: Sequence[int], widths: Sequence[int], *, bands: int, patch_px: int, levels: int = 1
    ) -> None:
        super().__init__()
        if patch_px not in (8, 16, 32):
            raise InputError(f"patch_px = {patch_px}: the encoder's stride must be 8, 16 or 32 pixels")
        self.patch_px = patch_px
        self.bands = bands
        self.width = widths[-1]
        reduction = patch_px // sparse_stride
        self.stem = nn.Conv2d(bands, widths[0], 3, padding=1)
        self.stem_norm = nn.LayerNorm(widths[0], eps=layer_norm_eps)
        self.reduce = nn.Conv2d(widths[0], widths[0], reduction, stride=reduction, groups=widths[0])
        self.reduce_norm = nn.LayerNorm(widths[0], eps=layer_norm_eps)
        self.level = nn.Parameter(torch.zeros(levels, widths[0]))
        self.unobserved = nn.Linear(bands, widths[0], bias=False)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width) for _ in range(depth)) for depth, width in zip(depths, widths, strict=True)
        )
        self.downsamplings = nn.ModuleList(Downsampling(narrow, wide) for narrow, wide in pairwise(widths))
        self.norm = nn.LayerNorm(self.width, eps=layer_norm_eps)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, level: Tensor | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """Features of whole images, (B, width): the mean of `forward_features` over the visible positions."""
        features = self.forward_features(x, mask, level=level, observed=observed)
        if mask is None:
            return features.mean(dim=(2, 3))
        visible = self._visible_positions(x, mask).permute(0, 3, 1, 2)
        return (features * visible).sum(dim=(2, 3)) / visible.sum(dim=(2, 3)).clamp(min=1)

    def forward_features(
        self, x: Tensor, mask: Tensor | None = None, *, level: Tensor | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """A map of features, (B, width, H / patch_px, W / patch_px), zero at masked positions.

        x: (B, bands, H, W) normalised; level: (B,) int64 kind of input, 0 without it; observed: (B, bands, H, W) bool,
        unobserved bands count as 0 and add a learned vector each, so that missing is not the same as average.
        """
        visible = None if mask is None else self._visible_pixels(x, mask)
        known, missing = _known_and_missing(x, observed)
        y = _local(self.stem, _masked(known, visible)) + self._level_of(level, len(x))[:, None, None]
        if missing is not None:
            y = y + self.unobserved(missing)
        y = _masked(functional.gelu(self.stem_norm(y)), visible)
        visible = _pooled(visible, self.patch_px // sparse_stride)
        y = _masked(self.reduce_norm(_local(self.reduce, y)), visible)
        for downsampling, blocks in self._stages():
            if downsampling is not None:
                y = downsampling(y, visible)
                visible = _pooled(visible, 2)
                y = _masked(y, visible)
            for block in blocks:
                y = block(y, visible)
        return _masked(self.norm(y), visible).permute(0, 3, 1, 2)

    def forward_visible(
        self, x: Tensor, visible: Tensor, *, level: Tensor | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """Features of the visible patches only, (B, V, width): equal to `forward_features` there, for less work.

        visible: (B, V) int64, the row-major numbers of the visible patches of each image, the same count V for all.
        """
        batch, count = visible.shape
        rows, columns = x.shape[2] // self.patch_px, x.shape[3] // self.patch_px
        shown = torch.zeros(batch, rows * columns, dtype=x.dtype, device=x.device).scatter_(1, visible, 1.0)
        pixels = _upsampled(shown.view(batch, rows, columns, 1), self.patch_px)
        known, missing = _known_and_missing(x, observed)
        y = self._stem_of_windows(_windows(_masked(known, pixels), visible, columns, self.patch_px, margin=1))
        y = y + self._level_of(level, batch).repeat_interleave(count, dim=0)[:, None, None]
        if missing is not None:
            y = y + self.unobserved(_windows(missing, visible, columns, self.patch_px, margin=0))
        y = self.reduce_norm(_local(self.reduce, functional.gelu(self.stem_norm(y))))
        side = sparse_stride
        for downsampling, blocks in self._stages():
            if downsampling is not None:
                y = downsampling(y)
                side //= 2
            index = _positions(visible, rows, columns, side)
            tokens = y.reshape(batch, count * side * side, -1)
            for block in blocks:
                tokens = block.forward_visible(tokens, index, (batch, rows * side, columns * side))
            y = tokens.view(batch * count, side, side, -1)
        return self.norm(y.view(batch, count, -1))  # type: ignore[no-any-return]

    def _stem_of_windows(self, windows: Tensor) -> Tensor:
        """The 3x3 convolution over windows that bring their own margin of one pixel."""
        y = functional.conv2d(windows.permute(0, 3, 1, 2), self.stem.weight, self.stem.bias)
        return y.permute(0, 2, 3, 1)

    def _level_of(self, level: Tensor | None, batch: int) -> Tensor:
        return self.level[:1].expand(batch, -1) if level is None else self.level[level]

    def _stages(self) -> Iterator[tuple[Downsampling | None, list[Block]]]:
        for downsampling, stage in zip([None, *self.downsamplings], self.stages, strict=True):
            yield cast("Downsampling | None", downsampling), cast("list[Block]", list(cast(nn.ModuleList, stage)))

    def _visible_pixels(self, x: Tensor, mask: Tensor) -> Tensor:
        visible = (~mask).to(x.dtype).unsqueeze(-1)
        if mask.shape[1:] == x.shape[2:]:
            return visible
        patches = (x.shape[2] // self.patch_px, x.shape[3] // self.patch_px)
        if tuple(mask.shape[1:]) != patches:
            raise ValueError(f"mask {tuple(mask.shape)} is neither of pixels nor of patches of {tuple(x.shape)}")
        return _upsampled(visible, self.patch_px)

    def _visible_positions(self, x: Tensor, mask: Tensor) -> Tensor:
        pooled = _pooled(self._visible_pixels(x, mask), self.patch_px)
        assert pooled is not None
        return pooled


class Block(nn.Module):
    """Depthwise 7x7 convolution, LayerNorm, linear x4, GELU, global response normalisation, linear, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.expand = nn.Linear(width, 4 * width)
        self.response = GlobalResponseNorm(4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """x: (B, H, W, C), zero where `visible` (B, H, W, 1; 1 or 0) is 0; the result is zero there as well."""
        return _masked(x + self._position_wise(_local(self.mix, x), visible), visible)

    def forward_visible(self, tokens: Tensor, index: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """The same for visible positions: tokens (B, n, C), `index` their numbers in a map (B, H, W) of this shape."""
        dense = _scattered(tokens, index, shape)
        mixed = _gathered(_local(self.mix, dense), index).view(tokens.shape)
        return tokens + self._position_wise(mixed, None)

    def _position_wise(self, x: Tensor, visible: Tensor | None) -> Tensor:
        hidden = functional.gelu(self.expand(self.norm(x)))
        return self.contract(self.response(hidden, visible))  # type: ignore[no-any-return]


class GlobalResponseNorm(nn.Module):
    """Scales each channel by its energy in the image relative to the other channels; only visible positions count.

    The factor is a ratio of norms, so it doesn't depend on how many positions are visible and pretraining agrees with
    the dense network used afterwards (ConvNeXt V2's sparse code pools over the whole batch instead, its issue 86).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """x: (B, ..., C); visible: (B, ..., 1) of 1 and 0, or None for all."""
        between = tuple(range(1, x.ndim - 1))
        wide = torch.promote_types(x.dtype, torch.float32)
        squares = _masked(x, visible).square().sum(dim=between, keepdim=True, dtype=wide)
        energy = squares.clamp(min=least_energy).sqrt()
        factor = energy / (energy.mean(dim=-1, keepdim=True) + response_eps)
        return torch.addcmul(self.bias.to(x.dtype), x, (1 + self.gain * factor).to(x.dtype))


class Downsampling(nn.Module):
    """LayerNorm and a 2x2 convolution with stride 2; (B, H, W, C) to (B, H / 2, W / 2, C')."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(narrow, eps=layer_norm_eps)
        self.reduce = nn.Conv2d(narrow, wide, 2, stride=2)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """`visible` (B, H, W, 1) is that of x: masked zeros are not zero after the norm; they must not be mixed."""
        return _local(self.reduce, _masked(self.norm(x), visible))


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew as ConvNeXt V2 does: truncated normal (deviation 0.02), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=0.02, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _local(convolution: nn.Module, x: Tensor) -> Tensor:
    """A convolution over (B, H, W, C); a channels-last picture, so no copy is made."""
    return convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def _masked(x: Tensor, visible: Tensor | None) -> Tensor:
    return x if visible is None else x * visible.to(x.dtype)


def _pooled(visible: Tensor | None, factor: int) -> Tensor | None:
    """A position of the coarser map is visible when any one under it is: the rule of strided sparse convolution."""
    if visible is None or factor == 1:
        return visible
    return functional.max_pool2d(visible.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


def _known_and_missing(x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x (B, C, H, W) as (B, H, W, C), 0 where unobserved, and 1 where unobserved (None if all is observed)."""
    if observed is None:
        return x.permute(0, 2, 3, 1), None
    known = torch.where(observed, x, 0.0).permute(0, 2, 3, 1)
    return known, (~observed).to(x.dtype).permute(0, 2, 3, 1)


def _windows(x: Tensor, patches: Tensor, columns: int, patch_px: int, *, margin: int) -> Tensor:
    """The given patches (B, V) of x (B, H, W, C) with a margin (0 beyond the image): (B * V, side, side, C)."""
    padded = functional.pad(x, (0, 0, margin, margin, margin, margin))
    side = patch_px + 2 * margin
    views = padded.unfold(1, side, patch_px).unfold(2, side, patch_px)  # (B, rows, columns, C, side, side)
    image = torch.arange(len(x), device=x.device)[:, None]
    chosen = views[image, patches // columns, patches % columns]
    return chosen.flatten(0, 1).permute(0, 2, 3, 1).contiguous()


def _upsampled(visible: Tensor, factor: int) -> Tensor:
    return visible.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def _positions(patches: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Numbers, in a flat (B, rows * side, columns * side) map, of the side x side positions of each patch (B, V)."""
    batch = len(patches)
    steps = torch.arange(side, device=patches.device)
    y = (patches // columns * side)[..., None, None] + steps[:, None]
    x = (patches % columns * side)[..., None, None] + steps
    image = torch.arange(batch, device=patches.device)[:, None, None, None]
    return ((image * (rows * side) + y) * (columns * side) + x).flatten()


def _gathered(dense: Tensor, index: Tensor) -> Tensor:
    return dense.reshape(-1, dense.shape[-1]).index_select(0, index)


def _scattered(tokens: Tensor, index: Tensor, shape: tuple[int, int, int]) -> Tensor:
    batch, height, width = shape
    dense = tokens.new_zeros(batch * height * width, tokens.shape[-1])
    return dense.index_copy(0, index, tokens.flatten(0, 1)).view(batch, height, width, -1)
