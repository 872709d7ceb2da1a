"""Image algorithms about bands, masks and metadata: load, select, rename, addBands, mask, clip, unmask, where,
properties.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m3etl.emulator.evaluate import pixel_types
from m3etl.emulator.evaluate.bands import (
    Band,
    ConstantBand,
    MaskedBand,
)
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.image_math import computed, constant_bands
from m3etl.emulator.evaluate.values import (
    DateValue,
    FeatureValue,
    GeometryValue,
    ImageValue,
    type_name,
)
from m3etl.emulator.model import PixelType, Projection, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.collection_values import CollectionValue
    from m3etl.emulator.evaluate.context import Context


def select_bands(name: str, image: ImageValue, selectors: Sequence[Any], new_names: Sequence[str] | None) -> ImageValue:
    """The selected bands in the selectors' order: names, whole-name regular expressions, or positions."""
    available = list(image.bands)
    chosen: list[str] = []
    for selector in selectors:
        chosen += _matching(name, available, selector)
    if new_names is None:
        labels = unique_names(chosen)
    else:
        if len(new_names) != len(chosen):
            raise invalid(
                f"{name}: Can't rename {len(chosen)} bands to {len(new_names)} names: the numbers must be equal."
            )
        labels = list(new_names)
    _check_unique(name, labels)
    return image.with_bands({label: image.bands[band] for label, band in zip(labels, chosen, strict=True)})


def _matching(name: str, available: list[str], selector: Any) -> list[str]:
    if isinstance(selector, int | float) and not isinstance(selector, bool):
        index = int(selector)
        if not -len(available) <= index < len(available):
            raise invalid(f"{name}: Band index {index} is out of range; the image has {len(available)} band(s).")
        return [available[index]]
    if not isinstance(selector, str):
        raise invalid(f"{name}: Band selectors must be names or numbers, got {type_name(selector)}.")
    if selector in available:
        return [selector]
    if not available:
        raise invalid(f"{name}: Band pattern '{selector}' was applied to an Image with no bands.")
    try:
        matched = [band for band in available if re.fullmatch(selector, band)]
    except re.error as error:
        raise invalid(f"{name}: Band pattern '{selector}' is not a valid regular expression: {error}.") from error
    if not matched:
        raise invalid(
            f"{name}: Band pattern '{selector}' did not match any bands. Available bands: [{', '.join(available)}]"
        )
    return matched


def unique_names(names: Sequence[str]) -> list[str]:
    """Names made distinct with the suffixes _1, _2, …"""
    taken: dict[str, None] = {}
    for name in names:
        label, count = name, 0
        while label in taken:
            count += 1
            label = f"{name}_{count}"
        taken[label] = None
    return list(taken)


def _check_unique(name: str, labels: Sequence[str]) -> None:
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        raise invalid(f"{name}: Duplicate band name(s): {', '.join(twice)}.")


def add_bands(target: ImageValue, source: Mapping[str, Band], overwrite: bool) -> ImageValue:
    """`target` with more bands; equal names replace or get a numerical suffix."""
    bands = dict(target.bands)
    for name, band in source.items():
        label, count = name, 0
        while not overwrite and label in bands:
            count += 1
            label = f"{name}_{count}"
        bands[label] = band
    return target.with_bands(bands)


@algorithm("Image.load")
def load(context: Context, id: str, version: int) -> ImageValue:
    return context.load_image(id)


@algorithm("Image.select")
def select(context: Context, input: ImageValue, selectors: list[Any], new_names: list[str] | None) -> ImageValue:
    return select_bands("Image.select", input, selectors, new_names)


@algorithm("Image.slice")
def slice_bands(context: Context, image: ImageValue, start: int, end: int | None) -> ImageValue:
    names = list(image.bands)[start:end]
    return image.with_bands({name: image.bands[name] for name in names})


@algorithm("Image.rename")
def rename(context: Context, input: ImageValue, names: list[str]) -> ImageValue:
    if len(names) != len(input.bands):
        raise invalid(
            f"Image.rename: The number of names ({len(names)}) must match the number of bands ({len(input.bands)})."
        )
    _check_unique("Image.rename", names)
    return input.with_bands(dict(zip(names, input.bands.values(), strict=True)), grid=input.grid)


@algorithm("Image.regexpRename")
def regexp_rename(context: Context, input: ImageValue, regex: str, replacement: str, all: bool) -> ImageValue:
    template = re.sub(r"\$(\d)", r"\\\1", replacement)
    names = [re.sub(regex, template, name, count=0 if all else 1) for name in input.bands]
    return input.with_bands(dict(zip(unique_names(names), input.bands.values(), strict=True)))


@algorithm("Image.addBands")
def image_add_bands(
    context: Context, target: ImageValue, source: ImageValue, names: list[str] | None, overwrite: bool
) -> ImageValue:
    chosen = source if names is None else select_bands("Image.addBands", source, names, None)
    return add_bands(target, chosen.bands, overwrite)


@algorithm("Image.cat")
def cat(context: Context, images: list[Any]) -> ImageValue:
    promoted = [_promote("Image.cat", item) for item in images]
    if not promoted:
        return ImageValue({})
    result = promoted[0]
    for image in promoted[1:]:
        result = add_bands(result, image.bands, False)
    return result


def _promote(name: str, item: Any) -> ImageValue:
    if isinstance(item, ImageValue):
        return item
    if isinstance(item, int | float | list):
        return ImageValue(constant_bands(item))
    raise invalid(f"{name}: Expected an image or a number, got {type_name(item)}.")


@algorithm("Dictionary.toImage")
def dictionary_to_image(context: Context, dictionary: dict[str, Any], names: list[str] | None) -> ImageValue:
    chosen = sorted(dictionary) if names is None else names
    bands: dict[str, Band] = {}
    for name in chosen:
        if not isinstance(dictionary.get(name), int | float):
            raise invalid(f"Dictionary.toImage: The value of '{name}' is not a number.")
        bands[name] = ConstantBand(float(dictionary[name]))
    return ImageValue(bands)


@algorithm("Image.metadata")
def metadata(context: Context, image: ImageValue, property: str, name: str | None) -> ImageValue:
    value = image.properties.get(property)
    if isinstance(value, DateValue):
        value = value.millis
    if not isinstance(value, int | float):
        raise invalid(f"Image.metadata: Property '{property}' is missing or not a number.")
    return computed(image, {name or property: ConstantBand(float(value), pixel_types.DOUBLE)})


def matched_bands(name: str, image: ImageValue, other: ImageValue) -> list[Band]:
    """A band of `other` for each band of `image`: a single one for all, or as many in order."""
    bands = list(other.bands.values())
    if len(bands) == 1:
        return bands * len(image.bands)
    if len(bands) != len(image.bands):
        raise invalid(f"{name}: The other image must have 1 or {len(image.bands)} bands, got {len(bands)}.")
    return bands


def geometry_of(name: str, value: Any) -> GeometryValue:
    """The geometry of anything that has one."""
    from m3etl.emulator.evaluate.collection_values import CollectionValue

    if isinstance(value, GeometryValue):
        return value
    if isinstance(value, FeatureValue) and value.geometry is not None:
        return value.geometry
    if isinstance(value, ImageValue):
        return value.footprint or GeometryValue(None)
    if isinstance(value, CollectionValue):
        return value.union_geometry()
    raise invalid(f"{name}: Expected a geometry, got {type_name(value)}.")


@algorithm("Image.bandNames")
def band_names(context: Context, image: ImageValue) -> list[str]:
    return list(image.bands)


@algorithm("Image.bandTypes")
def band_types(context: Context, image: ImageValue) -> dict[str, PixelType]:
    return {name: band.pixel_type for name, band in image.bands.items()}


@algorithm("Image.projection")
def projection(context: Context, image: ImageValue) -> Projection:
    found = image.first_band("Image.projection").projection
    if any(band.projection != found for band in image.bands.values()):
        raise invalid(
            "Image.projection: The bands of the specified image contains different projections. "
            "Use setDefaultProjection or select a single band."
        )
    return found


@algorithm("Image.date")
def image_date(context: Context, image: ImageValue) -> DateValue:
    start = image.properties.get("system:time_start")
    if isinstance(start, DateValue):
        return start
    if not isinstance(start, int | float):
        raise invalid("Image.date: The image has no 'system:time_start' property.")
    return DateValue(millis=start)


@algorithm("Image.id", "Feature.id")
def element_id(context: Context, element: Any) -> str | None:
    if isinstance(element, ImageValue):
        index = element.properties.get("system:index")
        return element.id if index is None else str(index)
    return element.id  # type: ignore[no-any-return]


@algorithm("Image.linkCollection")
def link_collection(
    context: Context, input: ImageValue, collection: CollectionValue, bands: Any, properties: Any, match: str
) -> ImageValue:
    wanted_bands = [] if bands is None else bands if isinstance(bands, list) else [bands]
    wanted = [] if properties is None else properties if isinstance(properties, list) else [properties]
    key = input.properties.get(match)
    found = None if key is None else collection.find_by_property(match, key)
    added = dict(input.properties)
    if found is None:
        masked = {
            str(name): MaskedBand(pixel_types.FLOAT, input.first_band("Image.linkCollection").projection)
            for name in wanted_bands
        }
        result = add_bands(input, masked, True)
        added.update(dict.fromkeys(wanted))
    else:
        if not isinstance(found, ImageValue):
            raise invalid("Image.linkCollection: The collection must contain images.")
        chosen = select_bands("Image.linkCollection", found, wanted_bands, None) if wanted_bands else ImageValue({})
        result = add_bands(input, chosen.bands, True)
        added.update({name: found.properties.get(name) for name in wanted})
    return result.with_properties(added)
