"""Image algorithms about masks: mask, updateMask, selfMask, unmask, where, blend, clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate import pixel_types
from m3etl.emulator.evaluate.bands import Band, ClippedBand, FootprintBand, Pixels, PointwiseBand, meaningful_projection
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.image_math import computed, constant_bands
from m3etl.emulator.evaluate.images import geometry_of, matched_bands
from m3etl.emulator.evaluate.pixel_types import convert
from m3etl.emulator.evaluate.values import ImageValue, intersect_footprint, union_footprint
from m3etl.emulator.model import PixelType

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


def masked_band(band: Band, mask: Band) -> Band:
    """A band that is also masked where another is masked or zero."""

    def compute(a: Pixels, b: Pixels) -> Pixels:
        return Pixels(a.values, a.valid & b.valid & (b.values != 0))

    return PointwiseBand(compute, (band, mask), band.pixel_type, band.projection, band.footprint)


@algorithm("Image.updateMask")
def update_mask(context: Context, image: ImageValue, mask: ImageValue) -> ImageValue:
    masks = matched_bands("Image.updateMask", image, mask)
    return image.with_bands(
        {name: masked_band(band, other) for (name, band), other in zip(image.bands.items(), masks, strict=True)}
    )


@algorithm("Image.selfMask")
def self_mask(context: Context, image: ImageValue) -> ImageValue:
    return image.with_bands({name: masked_band(band, band) for name, band in image.bands.items()})


@algorithm("Image.mask")
def mask(context: Context, image: ImageValue, mask: ImageValue | None) -> ImageValue:
    if mask is None:
        return computed(image, {name: mask_of(band) for name, band in image.bands.items()})
    masks = matched_bands("Image.mask", image, mask)
    return image.with_bands(
        {name: _remasked(band, other) for (name, band), other in zip(image.bands.items(), masks, strict=True)}
    )


def mask_of(band: Band) -> Band:
    """1 where a band is valid, 0 elsewhere, valid everywhere."""

    def compute(a: Pixels) -> Pixels:
        return Pixels(a.valid.astype(np.uint8), np.broadcast_to(np.True_, a.valid.shape))

    return PointwiseBand(compute, (band,), pixel_types.BOOLEAN, band.projection, None)


def _remasked(band: Band, mask: Band) -> Band:
    def compute(a: Pixels, b: Pixels) -> Pixels:
        values = convert(np.where(a.valid, a.values, 0), band.pixel_type)
        return Pixels(values, b.valid & (b.values != 0))

    return PointwiseBand(compute, (band, mask), band.pixel_type, band.projection, band.footprint)


@algorithm("Image.unmask")
def unmask(context: Context, input: ImageValue, value: ImageValue | None, same_footprint: bool) -> ImageValue:
    fill = ImageValue(constant_bands(0)) if value is None else value
    fills = matched_bands("Image.unmask", input, fill)
    return input.with_bands(
        {
            name: unmasked_band(band, other, same_footprint)
            for (name, band), other in zip(input.bands.items(), fills, strict=True)
        }
    )


def unmasked_band(band: Band, fill: Band, same_footprint: bool) -> Band:
    """A band filled from another where it is masked, everywhere or only inside its own footprint."""
    kind = pixel_types.union([band.pixel_type, fill.pixel_type])
    footprint = band.footprint

    def compute(a: Pixels, b: Pixels, inside: Pixels | None = None) -> Pixels:
        if a.valid.all():
            return Pixels(convert(a.values, kind), a.valid)
        fillable = b.valid & ~a.valid if inside is None else b.valid & ~a.valid & inside.valid
        values = convert(np.where(fillable, b.values, a.values), kind)
        return Pixels(values, a.valid | fillable)

    if not same_footprint:
        return PointwiseBand(compute, (band, fill), kind, band.projection, union_footprint([footprint, fill.footprint]))
    operands = (band, fill) if footprint is None else (band, fill, FootprintBand(footprint))
    return PointwiseBand(compute, operands, kind, band.projection, footprint)


@algorithm("Image.where")
def where(context: Context, input: ImageValue, test: ImageValue, value: ImageValue) -> ImageValue:
    tests, values = matched_bands("Image.where", input, test), matched_bands("Image.where", input, value)
    bands = {}
    for (name, band), condition, other in zip(input.bands.items(), tests, values, strict=True):
        bands[name] = _replaced(band, condition, other)
    return input.with_bands(bands)


def _replaced(band: Band, condition: Band, other: Band) -> Band:
    kind = pixel_types.union([band.pixel_type, other.pixel_type])

    def compute(a: Pixels, test: Pixels, b: Pixels) -> Pixels:
        chosen = test.valid & b.valid & (test.values != 0)
        return Pixels(convert(np.where(chosen, b.values, a.values), kind), a.valid)

    return PointwiseBand(compute, (band, condition, other), kind, band.projection, band.footprint)


@algorithm("Image.blend")
def blend(context: Context, bottom: ImageValue, top: ImageValue) -> ImageValue:
    def compute(a: Pixels, b: Pixels, kind: PixelType) -> Pixels:
        return Pixels(convert(np.where(b.valid, b.values, a.values), kind), a.valid | b.valid)

    bands = {}
    longer = bottom if len(bottom.bands) >= len(top.bands) else top
    lows, highs = matched_bands("Image.blend", longer, bottom), matched_bands("Image.blend", longer, top)
    for name, low, high in zip(longer.bands, lows, highs, strict=True):
        kind = pixel_types.union([low.pixel_type, high.pixel_type])
        bands[name] = PointwiseBand(
            lambda a, b, kind=kind: compute(a, b, kind),
            (low, high),
            kind,
            meaningful_projection((low, high)),
            union_footprint([low.footprint, high.footprint]),
        )
    return bottom.with_bands(bands)


@algorithm("Image.clip")
def clip(context: Context, input: ImageValue, geometry: Any) -> ImageValue:
    return clip_image("Image.clip", input, geometry)


@algorithm("Image.clipToCollection")
def clip_to_collection(context: Context, input: ImageValue, collection: Any) -> ImageValue:
    return clip_image("Image.clipToCollection", input, collection)


def clip_image(name: str, image: ImageValue, geometry: Any) -> ImageValue:
    """An image masked outside a geometry, a feature, or the union of a collection's features."""
    region = geometry_of(name, geometry)
    return image.with_bands(
        {
            label: ClippedBand(band, region, intersect_footprint(band.footprint, region))
            for label, band in image.bands.items()
        }
    )
