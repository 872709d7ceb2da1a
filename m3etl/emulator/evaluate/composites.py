"""Image collection algorithms that make one image: reductions, mosaics, bands side by side.

Bands are matched by name. Composites have the one-degree WGS84 default projection, as the service gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate import pixel_types
from m3etl.emulator.evaluate.bands import Array, Band, PickBand, Pixels, StackNode
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.image_math import cast_band
from m3etl.emulator.evaluate.images import add_bands
from m3etl.emulator.evaluate.pixel_types import convert
from m3etl.emulator.evaluate.reducers import ReducerValue, named_reducer
from m3etl.emulator.evaluate.values import ImageValue
from m3etl.emulator.model import Grid, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context
    from m3etl.emulator.evaluate.projections import BoolArray

MAX_BANDS = 5000


def images_of(name: str, collection: CollectionValue) -> list[ImageValue]:
    """All images of a collection."""
    images = list(collection.elements())
    for image in images:
        if not isinstance(image, ImageValue):
            raise invalid(f"{name}: The collection must contain images only.")
    return images


def bands_by_name(images: Sequence[ImageValue]) -> dict[str, list[Band]]:
    """The bands of each name over all images, names in order of appearance."""
    found: dict[str, list[Band]] = {}
    for image in images:
        for name, band in image.bands.items():
            found.setdefault(name, []).append(band)
    return found


def _reduced(bands: Sequence[Band], reducer: ReducerValue) -> list[Band]:
    kind = pixel_types.union([band.pixel_type for band in bands])

    def function(stacks: list[Array], valid: BoolArray, grid: Grid) -> Sequence[Pixels]:
        return reducer.reduce_stack(stacks, valid)

    node = StackNode([[band] for band in bands], [kind], function)
    return [PickBand(node, index, output) for index, output in enumerate(reducer.output_types([kind]))]


@algorithm("ImageCollection.reduce")
def reduce(context: Context, collection: CollectionValue, reducer: ReducerValue, scale: float) -> ImageValue:
    name = "ImageCollection.reduce"
    images = images_of(name, collection)
    bands: dict[str, Band] = {}
    if reducer.inputs == 1:
        for label, members in bands_by_name(images).items():
            for output, band in zip(reducer.outputs, _reduced(members, reducer), strict=True):
                bands[f"{label}_{output}"] = band
        return ImageValue(bands)
    if not images:
        return ImageValue({})
    groups = [list(image.bands.values()) for image in images]
    for group in groups:
        reducer.check_inputs(name, group)
    kinds = [pixel_types.union([group[i].pixel_type for group in groups]) for i in range(reducer.inputs)]

    def function(stacks: list[Array], valid: BoolArray, grid: Grid) -> Sequence[Pixels]:
        return reducer.reduce_stack(stacks, valid)

    node = StackNode(groups, kinds, function)
    outputs = zip(reducer.outputs, reducer.output_types(kinds), strict=True)
    return ImageValue({output: PickBand(node, index, kind) for index, (output, kind) in enumerate(outputs)})


def _register_reduction(name: str) -> None:
    @algorithm(f"reduce.{name}")
    def reduction(context: Context, collection: CollectionValue) -> ImageValue:
        images = images_of(f"reduce.{name}", collection)
        return ImageValue(
            {label: _reduced(members, named_reducer(name))[0] for label, members in bands_by_name(images).items()}
        )


for _name in ("mean", "median", "min", "max", "sum", "mode", "count", "product", "and", "or"):
    _register_reduction(_name)


def _last_valid(stacks: list[Array], valid: BoolArray, grid: Grid) -> Sequence[Pixels]:
    stack = stacks[0]
    values = np.zeros(stack.shape[1:], stack.dtype)
    present = np.zeros(stack.shape[1:], bool)
    for layer, mask in zip(stack[::-1], valid[::-1], strict=True):
        fill = mask & ~present
        values[fill] = layer[fill]
        present |= mask
        if present.all():
            break
    return [Pixels(values, present)]


@algorithm("ImageCollection.mosaic")
def mosaic(context: Context, collection: CollectionValue) -> ImageValue:
    bands: dict[str, Band] = {}
    for name, members in bands_by_name(images_of("ImageCollection.mosaic", collection)).items():
        kind = pixel_types.union([band.pixel_type for band in members])
        node = StackNode([[band] for band in members], [kind], _last_valid)
        bands[name] = PickBand(node, 0, kind)
    return ImageValue(bands)


@algorithm("ImageCollection.qualityMosaic")
def quality_mosaic(context: Context, collection: CollectionValue, quality_band: str) -> ImageValue:
    name = "ImageCollection.qualityMosaic"
    images = images_of(name, collection)
    if not images:
        return ImageValue({})
    names = list(images[0].bands)
    if any(quality_band not in image.bands for image in images):
        raise invalid(f"{name}: The quality band '{quality_band}' is missing in an image of the collection.")
    groups = [
        [image.bands[quality_band], *(image.bands[label] for label in names if label in image.bands)]
        for image in images
    ]
    if any(len(group) != len(names) + 1 for group in groups):
        raise invalid(f"{name}: All images must have the bands {', '.join(names)}.")
    kinds = [pixel_types.union([group[i].pixel_type for group in groups]) for i in range(len(names) + 1)]
    bands: dict[str, Band] = {}
    for index, label in enumerate(names):
        pairs = [[group[0], group[index + 1]] for group in groups]

        def best(stacks: list[Array], valid: BoolArray, grid: Grid) -> Sequence[Pixels]:
            quality, values = stacks
            if not len(quality):
                return [Pixels(np.zeros(values.shape[1:], values.dtype), np.zeros(values.shape[1:], bool))]
            chosen = np.where(valid, quality.astype(np.float64), -np.inf).argmax(axis=0)[None]
            return [Pixels(np.take_along_axis(values, chosen, axis=0)[0], np.asarray(valid.any(axis=0)))]

        node = StackNode(pairs, [kinds[0], kinds[index + 1]], best)
        bands[label] = PickBand(node, 0, kinds[index + 1])
    return ImageValue(bands)


@algorithm("ImageCollection.toBands")
def to_bands(context: Context, collection: CollectionValue) -> ImageValue:
    bands: dict[str, Band] = {}
    images = images_of("ImageCollection.toBands", collection)
    for image in images:
        prefix = image.properties.get("system:index")
        for name, band in image.bands.items():
            bands[f"{prefix}_{name}"] = band
        if len(bands) > MAX_BANDS:
            raise invalid(f"ImageCollection.toBands: The maximum number of bands is {MAX_BANDS}.")
    return ImageValue(bands)


@algorithm("ImageCollection.combine")
def combine(context: Context, primary: CollectionValue, secondary: CollectionValue, overwrite: bool) -> CollectionValue:
    def elements() -> Any:
        for image in images_of("ImageCollection.combine", primary):
            match = secondary.find_by_property("system:index", image.properties.get("system:index"))
            if isinstance(match, ImageValue):
                yield add_bands(image, match.bands, overwrite).with_properties(image.properties)

    return CollectionValue(elements, "image", budget=context.budget, id=primary.id, properties=primary.properties)


@algorithm("ImageCollection.cast")
def cast(
    context: Context, collection: CollectionValue, band_types: dict[str, Any], band_order: list[str]
) -> CollectionValue:
    kinds = {name: pixel_types.parse(kind) for name, kind in band_types.items()}

    def function(image: ImageValue) -> ImageValue:
        missing = [name for name in band_order if name not in image.bands]
        if missing:
            raise invalid(f"ImageCollection.cast: The image has no band(s) {', '.join(missing)}.")
        return image.with_bands(
            {name: cast_band(image.bands[name], kinds.get(name, image.bands[name].pixel_type)) for name in band_order}
        )

    return collection.mapped(function)


@algorithm("Image.reduce")
def image_reduce(context: Context, image: ImageValue, reducer: ReducerValue) -> ImageValue:
    bands = list(image.bands.values())
    if not bands:
        return image.with_bands({})
    if reducer.inputs != 1:
        groups = [reducer.check_inputs("Image.reduce", bands)]
        kinds = [band.pixel_type for band in bands]
    else:
        groups = [[band] for band in bands]
        kinds = [pixel_types.union([band.pixel_type for band in bands])]
    projection = bands[0].projection
    width = len(kinds)

    def function(stacks: list[Array], valid: BoolArray, grid: Grid) -> Sequence[Pixels]:
        return reducer.reduce_stack([convert(stacks[i], kinds[i]) for i in range(width)], valid)

    node = StackNode(groups, kinds, function)
    outputs = zip(reducer.outputs, reducer.output_types(kinds), strict=True)
    return image.with_bands(
        {output: PickBand(node, index, kind, projection) for index, (output, kind) in enumerate(outputs)}
    )
