"""Joins of two collections by a filter on pairs: simple, inverted, inner, saveAll, saveBest, saveFirst."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.filters import FilterValue, plain
from m3etl.emulator.evaluate.values import FeatureValue, ImageValue, JoinValue
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


@algorithm("Join.simple")
def simple(context: Context) -> JoinValue:
    return JoinValue(kind="simple")


@algorithm("Join.inverted")
def inverted(context: Context) -> JoinValue:
    return JoinValue(kind="inverted")


@algorithm("Join.inner")
def inner(context: Context, primary: str, secondary: str, measure: str | None) -> JoinValue:
    return JoinValue(kind="inner", settings={"primary": primary, "secondary": secondary, "measure": measure})


@algorithm("Join.saveAll")
def save_all(
    context: Context, key: str, ordering: str | None, ascending: bool, measure: str | None, outer: bool
) -> JoinValue:
    settings = {"key": key, "ordering": ordering, "ascending": ascending, "measure": measure, "outer": outer}
    return JoinValue(kind="saveAll", settings=settings)


@algorithm("Join.saveFirst")
def save_first(
    context: Context, key: str, ordering: str | None, ascending: bool, measure: str | None, outer: bool
) -> JoinValue:
    settings = {"key": key, "ordering": ordering, "ascending": ascending, "measure": measure, "outer": outer}
    return JoinValue(kind="saveFirst", settings=settings)


@algorithm("Join.saveBest")
def save_best(context: Context, key: str, measure: str, outer: bool) -> JoinValue:
    return JoinValue(kind="saveBest", settings={"key": key, "measure": measure, "outer": outer})


class _Matcher:
    """Finds the secondary elements that match a primary one, by lookup where the filter needs a property equal."""

    def __init__(self, secondary: CollectionValue, condition: FilterValue) -> None:
        self._condition = condition
        self._all = list(secondary.elements())
        self._table: dict[Any, list[Any]] | None = None
        if condition.equal_fields is not None:
            self._table = {}
            for element in self._all:
                key = plain(element.properties.get(condition.equal_fields[1]))
                if isinstance(key, str | int | float):
                    self._table.setdefault(key, []).append(element)

    def matches(self, primary: Any) -> Iterator[Any]:
        candidates = self._all
        if self._table is not None and self._condition.equal_fields is not None:
            key = plain(primary.properties.get(self._condition.equal_fields[0]))
            candidates = self._table.get(key, []) if isinstance(key, str | int | float) else []
        return (element for element in candidates if self._condition.test(primary, element))

    def measure(self, primary: Any, secondary: Any) -> float | None:
        return None if self._condition.measure is None else self._condition.measure(primary, secondary)


@algorithm("Join.apply")
def apply(
    context: Context, join: JoinValue, primary: CollectionValue, secondary: CollectionValue, condition: FilterValue
) -> CollectionValue:
    if join.kind == "saveBest" and condition.measure is None:
        raise invalid("Join.saveBest: The join condition must produce a measure: use maxDifference or withinDistance.")

    def joined() -> Iterator[Any]:
        matcher = _Matcher(secondary, condition)
        for element in primary.elements():
            context.budget.check_time()
            yield from _JOINS[join.kind](join, matcher, element)

    kind = "feature" if join.kind == "inner" else None
    return CollectionValue(joined, kind, budget=context.budget, id=primary.id, properties=primary.properties)


def _with(element: Any, added: dict[str, Any]) -> Any:
    properties = {**element.properties, **added}
    if isinstance(element, ImageValue):
        return element.with_properties(properties)
    return FeatureValue(geometry=element.geometry, properties=properties)


def _simple(join: JoinValue, matcher: _Matcher, element: Any) -> Iterator[Any]:
    if next(matcher.matches(element), None) is not None:
        yield element


def _inverted(join: JoinValue, matcher: _Matcher, element: Any) -> Iterator[Any]:
    if next(matcher.matches(element), None) is None:
        yield element


def _inner(join: JoinValue, matcher: _Matcher, element: Any) -> Iterator[Any]:
    for match in matcher.matches(element):
        pair = {join.settings["primary"]: element, join.settings["secondary"]: match}
        if join.settings["measure"] is not None:
            pair[join.settings["measure"]] = matcher.measure(element, match)
        index = f"{element.properties.get('system:index')}_{match.properties.get('system:index')}"
        yield FeatureValue(geometry=None, properties={**pair, "system:index": index})


def _ordered(join: JoinValue, matcher: _Matcher, element: Any) -> list[Any]:
    found = list(matcher.matches(element))
    ordering = join.settings["ordering"]
    if ordering is not None:
        found.sort(key=lambda match: sort_key(match.properties.get(ordering)), reverse=not join.settings["ascending"])
    return found


def sort_key(value: Any) -> tuple[int, Any]:
    """Numbers before texts before everything else, missing values first."""
    value = plain(value)
    if value is None:
        return (0, 0)
    if isinstance(value, int | float):
        return (1, value)
    return (2, value) if isinstance(value, str) else (3, str(value))


def _measured(join: JoinValue, matcher: _Matcher, element: Any, match: Any) -> Any:
    key = join.settings["measure"]
    return match if key is None else _with(match, {key: matcher.measure(element, match)})


def _save_all(join: JoinValue, matcher: _Matcher, element: Any) -> Iterator[Any]:
    found = [_measured(join, matcher, element, match) for match in _ordered(join, matcher, element)]
    if found or join.settings["outer"]:
        yield _with(element, {join.settings["key"]: found})


def _save_first(join: JoinValue, matcher: _Matcher, element: Any) -> Iterator[Any]:
    if join.settings["ordering"] is None:
        match = next(matcher.matches(element), None)
    else:
        match = next(iter(_ordered(join, matcher, element)), None)
    if match is not None:
        yield _with(element, {join.settings["key"]: _measured(join, matcher, element, match)})
    elif join.settings["outer"]:
        yield _with(element, {join.settings["key"]: None})


def _save_best(join: JoinValue, matcher: _Matcher, element: Any) -> Iterator[Any]:
    measured = [(matcher.measure(element, match), match) for match in matcher.matches(element)]
    ranked = [(measure, position) for position, (measure, _) in enumerate(measured) if measure is not None]
    if ranked:
        best = measured[min(ranked)[1]][1]
        yield _with(element, {join.settings["key"]: _measured(join, matcher, element, best)})
    elif join.settings["outer"]:
        yield _with(element, {join.settings["key"]: None})


_JOINS = {
    "simple": _simple,
    "inverted": _inverted,
    "inner": _inner,
    "saveAll": _save_all,
    "saveFirst": _save_first,
    "saveBest": _save_best,
}
