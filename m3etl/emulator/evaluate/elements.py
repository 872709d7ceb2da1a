"""Element and Feature algorithms: properties of images, features and collections, and geometry of features."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_algorithms import with_properties
from m3etl.emulator.evaluate.images import geometry_of
from m3etl.emulator.evaluate.values import FeatureValue, GeometryValue, ImageValue, type_name
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


@algorithm("Feature")
def feature(
    context: Context, geometry: GeometryValue | None, metadata: dict[str, Any], key: str | None
) -> FeatureValue:
    return FeatureValue(geometry=geometry, properties=metadata or {})


@algorithm("Element.get")
def get(context: Context, element: Any, property: str) -> Any:
    if property == "system:id" and isinstance(element, ImageValue):
        return element.id
    if property == "system:footprint" and isinstance(element, ImageValue) and property not in element.properties:
        return element.footprint
    return element.properties.get(property)


def _register_typed(name: str, kinds: tuple[type, ...]) -> None:
    @algorithm(f"Element.{name}")
    def typed(context: Context, element: Any, property: str) -> Any:
        value = element.properties.get(property)
        if value is not None and not isinstance(value, kinds):
            raise invalid(f"Element.{name}: Property '{property}' is a {type_name(value)}.")
        return value


_register_typed("getNumber", (int, float))
_register_typed("getString", (str,))
_register_typed("getArray", (np.ndarray, list))


@algorithm("Element.set")
def set_property(context: Context, element: Any, key: str, value: Any) -> Any:
    return with_properties(element, {**element.properties, key: value})


@algorithm("Element.setMulti")
def set_many(context: Context, element: Any, properties: dict[str, Any]) -> Any:
    return with_properties(element, {**element.properties, **properties})


@algorithm("Element.propertyNames")
def property_names(context: Context, element: Any) -> list[str]:
    names = list(element.properties)
    return [*names, "system:bands", "system:band_names"] if isinstance(element, ImageValue) else names


def _ordinary(element: Any) -> list[str]:
    return [name for name in element.properties if not name.startswith("system:")]


@algorithm("Element.toDictionary")
def to_dictionary(context: Context, element: Any, properties: list[str] | None) -> dict[str, Any]:
    names = _ordinary(element) if properties is None else properties
    missing = [name for name in names if name not in element.properties]
    if missing:
        raise invalid(f"Element.toDictionary: The element has no propert(y/ies) {', '.join(missing)}.")
    return {name: element.properties[name] for name in names}


@algorithm("Element.copyProperties", "Image.copyProperties")
def copy_properties(
    context: Context, destination: Any, source: Any, properties: list[str] | None, exclude: list[str] | None
) -> Any:
    if destination is None:
        raise invalid("Element.copyProperties: Parameter 'destination' is required and may not be null.")
    if source is None:
        return destination
    if properties is not None and exclude is not None:
        raise invalid("Element.copyProperties: Only one of properties and exclude may be specified.")
    names = _ordinary(source) if properties is None else properties
    dropped = set(exclude or ())
    copied = {name: source.properties[name] for name in names if name in source.properties and name not in dropped}
    return with_properties(destination, {**destination.properties, **copied})


@algorithm("Element.replaceProperties")
def replace_properties(context: Context, destination: Any, source: Any) -> Any:
    return destination if source is None else with_properties(destination, dict(source.properties))


@algorithm("Feature.select")
def select(
    context: Context, element: Any, selectors: list[str], new_names: list[str] | None, retain_geometry: bool
) -> Any:
    chosen: list[str] = []
    for selector in selectors:
        matched = [selector] if selector in element.properties else [
            name for name in element.properties if re.fullmatch(selector, name)
        ]  # fmt: skip
        chosen += [name for name in matched if name not in chosen]
    labels = chosen if new_names is None else new_names
    if len(labels) != len(chosen):
        raise invalid(f"Feature.select: Can't rename {len(chosen)} properties to {len(labels)} names.")
    properties = {label: element.properties[name] for label, name in zip(labels, chosen, strict=True)}
    if "system:index" in element.properties:
        properties["system:index"] = element.properties["system:index"]
    if isinstance(element, FeatureValue):
        return FeatureValue(geometry=element.geometry if retain_geometry else None, properties=properties)
    return element.with_properties(properties)


@algorithm("Feature.setGeometry")
def set_geometry(context: Context, element: Any, geometry: GeometryValue | None) -> FeatureValue:
    return FeatureValue(geometry=geometry, properties=element.properties)


@algorithm("Feature.toArray")
def to_array(context: Context, element: FeatureValue, properties: list[str]) -> Any:
    return np.array([element.properties.get(name) for name in properties], dtype=np.float64)


@algorithm("Feature.geometry", "Image.geometry", "Element.geometry")
def geometry(context: Context, element: Any, max_error: Any, proj: Any, geodesics: bool | None) -> Any:
    if isinstance(element, FeatureValue) and element.geometry is None:
        return None
    found = geometry_of("Feature.geometry", element)
    if proj is None:
        return found
    from m3etl.emulator.evaluate.geometry import in_projection

    return in_projection(found, proj)
