"""Filters written as text, such as "CLOUDY_PIXEL_PERCENTAGE < 20 and MGRS_TILE == '32TPT'"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.filters import FilterValue, comparable, plain
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<name>[A-Za-z_][\w:.]*)|(?P<symbol><=|>=|==|!=|&&|\|\||[<>=!()]))"
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}
Test = Callable[[Any], bool]
Read = Callable[[Any], Any]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self._error(f"unexpected '{text[position : position + 20]}'")
            self._tokens.append((match.lastgroup, match.group(match.lastgroup)))
            position = match.end()
        self._position = 0

    def _error(self, problem: str) -> Exception:
        return invalid(f"Filter.expression: {problem} in '{self._text}'.")

    def parse(self) -> Test:
        test = self._either()
        if self._position != len(self._tokens):
            raise self._error(f"unexpected '{self._tokens[self._position][1]}'")
        return test

    def _accept(self, *symbols: str) -> str | None:
        if self._position < len(self._tokens):
            kind, value = self._tokens[self._position]
            if kind != "text" and value.lower() in symbols:
                self._position += 1
                return value.lower()
        return None

    def _either(self) -> Test:
        tests = [self._both()]
        while self._accept("||", "or") is not None:
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda element: any(test(element) for test in tests)

    def _both(self) -> Test:
        tests = [self._single()]
        while self._accept("&&", "and") is not None:
            tests.append(self._single())
        return tests[0] if len(tests) == 1 else lambda element: all(test(element) for test in tests)

    def _single(self) -> Test:
        if self._accept("!", "not") is not None:
            negated = self._single()
            return lambda element: not negated(element)
        if self._accept("(") is not None:
            inner = self._either()
            if self._accept(")") is None:
                raise self._error("expected ')'")
            return inner
        left = self._operand()
        symbol = self._accept(*_COMPARE)
        if symbol is None:
            raise self._error("expected a comparison")
        right = self._operand()
        compare = _COMPARE[symbol]

        def test(element: Any) -> bool:
            a, b = left(element), right(element)
            return comparable(a, b) and compare(a, b)

        return test

    def _operand(self) -> Read:
        if self._position >= len(self._tokens):
            raise self._error("unexpected end")
        kind, value = self._tokens[self._position]
        self._position += 1
        if kind == "number":
            number = float(value)
            return lambda element: number
        if kind == "text":
            return lambda element: value[1:-1]
        if kind == "name":
            return lambda element: plain(element.properties.get(value))
        raise self._error(f"unexpected '{value}'")


def parse_filter(text: str) -> FilterValue:
    """The filter that a text describes."""
    test = _Parser(text).parse()
    return FilterValue(test=lambda left, right: test(left))


@algorithm("Filter.expression")
def expression(context: Context, text: str) -> FilterValue:
    return parse_filter(text)
