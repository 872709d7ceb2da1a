"""MP-MAE: Sentinel-2 with most patches hidden goes through the encoder and one shared decoder block; one light head per
array predicts that array at the hidden patches (rasters) or for the whole image (vectors)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from m3etl.errors import InputError
from m3etl.learn.encoder import Block, ConvNeXtV2, build_encoder, layer_norm_eps
from m3etl.spec.catalog import sentinel2_l2a_bands
from m3etl.spec.modality import ArraySpec, Shape, Values

input_bands = sentinel2_l2a_bands  # the 12 bands that both levels have
input_levels: tuple[str, ...] = ("sentinel2_l2a", "sentinel2_l1c")  # the number of a level is its place here


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """size: a name of `encoder_sizes`; decoder_width and decoder_depth: the shared decoder; skip_hidden: compute the
    encoder on visible patches only (same result)."""

    size: str = "atto"
    patch_px: int = 16
    decoder_width: int = 512
    decoder_depth: int = 1
    skip_hidden: bool = True


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """x: (B, 12, H, W) normalised, 0 where unobserved; observed: the same shape, bool; level: (B,) int64."""

    x: Tensor
    observed: Tensor
    level: Tensor


class InputBands:
    """Takes the encoder's 12 bands by name from normalised arrays: L2A of a chip where it has any, else L1C."""

    def __init__(self, specs: Sequence[ArraySpec]) -> None:
        known = {spec.name: spec for spec in specs}
        self.columns: dict[str, list[int]] = {}
        for name in input_levels:
            if name in known:
                missing = [band for band in input_bands if band not in known[name].bands]
                if missing:
                    raise InputError(f"{name} lacks the bands {', '.join(missing)}, which the encoder needs")
                self.columns[name] = [known[name].bands.index(band) for band in input_bands]
        if not self.columns:
            raise InputError(
                f"the encoder's input needs one of {', '.join(input_levels)}; the data set has {', '.join(known)}",
                hint="Export it: `m3etl export --modality sentinel2`.",
            )

    def __call__(self, arrays: Mapping[str, Tensor]) -> EncoderInput:
        """arrays: normalised (B, band, H, W) and `{array}_valid` of the same shape, as `Normalizer` gives them."""
        chosen: EncoderInput | None = None
        for name, columns in reversed(self.columns.items()):
            own = EncoderInput(
                x=arrays[name][:, columns],
                observed=arrays[f"{name}_valid"][:, columns],
                level=torch.full((len(arrays[name]),), input_levels.index(name), device=arrays[name].device),
            )
            chosen = own if chosen is None else _preferred(own, chosen)
        assert chosen is not None
        return chosen


def _preferred(first: EncoderInput, second: EncoderInput) -> EncoderInput:
    has = first.observed.flatten(1).any(dim=1)
    picture = has[:, None, None, None]
    return EncoderInput(
        x=torch.where(picture, first.x, second.x),
        observed=torch.where(picture, first.observed, second.observed),
        level=torch.where(has, first.level, second.level),
    )


class MaskedAutoencoder(nn.Module):
    """Encoder, mask token, decoder and one head for each of `targets`."""

    def __init__(self, specs: Sequence[ArraySpec], targets: Sequence[ArraySpec], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.targets = tuple(targets)
        self.input_bands = InputBands(specs)
        self.encoder: ConvNeXtV2 = build_encoder(
            config.size, bands=len(input_bands), patch_px=config.patch_px, levels=len(input_levels)
        )
        width = config.decoder_width
        self.project = nn.Linear(self.encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = nn.ModuleList(Block(width) for _ in range(config.decoder_depth))
        self.pool_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.heads = nn.ModuleDict(
            {spec.name: nn.Linear(width, head_width(spec, config.patch_px)) for spec in self.targets}
        )

    def forward(
        self, arrays: Mapping[str, Tensor], visible: Tensor, hidden: Tensor, *, everywhere: bool = False
    ) -> dict[str, Tensor]:
        """The prediction of each target.

        arrays: normalised batch; visible (B, V) and hidden (B, P - V): numbers of the patches, both int64.
        Rasters: (B, P - V, patch_px, patch_px, band) at the hidden patches in the order of `hidden`, or (B, P, ...)
        at all with `everywhere`; vectors: (B, feature). Arrays of classes have one more axis: a score per class.
        """
        picture = self.input_bands(arrays)
        rows, columns = (side // self.config.patch_px for side in picture.x.shape[2:])
        patches = self.project(self._encoded(picture, visible, hidden, (rows, columns)))
        decoded = self._decoded(patches, visible, (rows, columns))
        pooled = self.pool_norm(decoded).mean(dim=1)
        shown = decoded if everywhere else _picked(decoded, hidden)
        return {spec.name: self._headed(spec, shown if spec.shape is Shape.RASTER else pooled) for spec in self.targets}

    def _encoded(self, picture: EncoderInput, visible: Tensor, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.config.skip_hidden:
            return self.encoder.forward_visible(picture.x, visible, level=picture.level, observed=picture.observed)
        batch = len(visible)
        mask = torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool, device=visible.device).scatter_(1, hidden, True)
        features = self.encoder.forward_features(
            picture.x, mask.view(batch, *grid), level=picture.level, observed=picture.observed
        )
        return _picked(features.flatten(2).transpose(1, 2), visible)

    def _decoded(self, patches: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, _, width = patches.shape
        full = self.mask_token.to(patches.dtype).expand(batch, grid[0] * grid[1], width)
        full = full.scatter(1, visible[..., None].expand(-1, -1, width), patches)
        decoded = full.view(batch, *grid, width)
        for block in self.decoder:
            decoded = block(decoded)
        return decoded.flatten(1, 2)

    def _headed(self, spec: ArraySpec, features: Tensor) -> Tensor:
        flat = self.heads[spec.name](features)
        patch = self.config.patch_px
        inner = (patch, patch, len(spec.bands)) if spec.shape is Shape.RASTER else (len(spec.bands),)
        scores = (spec.class_count,) if spec.values is Values.CLASSES else ()
        return flat.view(*flat.shape[:-1], *inner, *scores)  # type: ignore[no-any-return]


def head_width(spec: ArraySpec, patch_px: int) -> int:
    """Outputs per position of the head of an array: pixels of a patch x bands x classes."""
    pixels = patch_px**2 if spec.shape is Shape.RASTER else 1
    return pixels * len(spec.bands) * max(1, spec.class_count)


def patches_of(raster: Tensor, patch_px: int) -> Tensor:
    """A raster (B, band, H, W) as patches (B, P, patch_px, patch_px, band), row-major."""
    batch, bands, height, width = raster.shape
    rows, columns = height // patch_px, width // patch_px
    parts = raster.reshape(batch, bands, rows, patch_px, columns, patch_px).permute(0, 2, 4, 3, 5, 1)
    return parts.reshape(batch, rows * columns, patch_px, patch_px, bands)


def raster_of(patches: Tensor, columns: int) -> Tensor:
    """Patches (B, P, patch_px, patch_px, band) as a raster (B, band, H, W) that is `columns` patches wide."""
    batch, count, patch, _, bands = patches.shape
    parts = patches.reshape(batch, count // columns, columns, patch, patch, bands).permute(0, 5, 1, 3, 2, 4)
    return parts.reshape(batch, bands, count // columns * patch, columns * patch)


def pick_patches(patches: Tensor, numbers: Tensor) -> Tensor:
    """Of (B, P, ...) the patches with these numbers (B, n): (B, n, ...)."""
    return _picked(patches.flatten(2), numbers).view(*numbers.shape, *patches.shape[2:])


def choose_targets(
    specs: Sequence[ArraySpec], *, names: Sequence[str] = (), leave_out: Sequence[str] = ()
) -> tuple[ArraySpec, ...]:
    """The pretext targets: the named arrays (all that may be targets without a name) less those left out.

    `leave_out` names arrays or label families; a left-out label takes its whole family with it. InputError names what
    is unknown.
    """
    known = {spec.name: spec for spec in specs}
    families = {spec.label_family for spec in specs if spec.label_family}
    unknown = [name for name in names if name not in known] + [
        name for name in leave_out if name not in known and name not in families
    ]
    if unknown:
        raise InputError(
            f"not in the data set: {', '.join(unknown)}",
            hint=f"Arrays: {', '.join(known)}. Label families: {', '.join(sorted(families)) or 'none'}.",
        )
    forbidden = [name for name in names if not known[name].target]
    if forbidden:
        raise InputError(f"{', '.join(forbidden)} cannot be a pretext target (declared so in the catalogue)")
    out = {known[name].label_family or name if name in known else name for name in leave_out}
    chosen = tuple(
        spec
        for spec in specs
        if (spec.name in names if names else spec.target) and not {spec.name, spec.label_family} & out
    )
    if not chosen:
        raise InputError(
            "no pretext target is left", hint="Name fewer arrays in data.leave_out or more in data.arrays."
        )
    return chosen


def _picked(tokens: Tensor, numbers: Tensor) -> Tensor:
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[-1]))
