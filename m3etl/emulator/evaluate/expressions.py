"""Image.parseExpression: arithmetic text over images, parsed by precedence climbing into a function of images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m3etl.emulator.evaluate import calls
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.image_math import constant_bands
from m3etl.emulator.evaluate.images import select_bands
from m3etl.emulator.evaluate.values import ImageValue, type_name
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<symbol>\*\*|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%^<>=!~?:()\[\].,&|]))"
)
# (precedence, algorithm); a higher precedence binds tighter.
_BINARY = {
    "||": (2, "or"), "or": (2, "or"), "&&": (3, "and"), "and": (3, "and"),
    "|": (4, "bitwiseOr"), "&": (5, "bitwiseAnd"),
    "==": (6, "eq"), "!=": (6, "neq"), "<": (7, "lt"), "<=": (7, "lte"), ">": (7, "gt"), ">=": (7, "gte"),
    "<<": (8, "leftShift"), ">>": (8, "rightShift"), "+": (9, "add"), "-": (9, "subtract"), "*": (10, "multiply"),
    "/": (10, "divide"), "%": (10, "mod"), "**": (12, "pow"), "^": (12, "pow"),
}  # fmt: skip
_CONSTANTS = {"PI": 3.141592653589793, "E": 2.718281828459045}
_FOLDED = {"min": "min", "max": "max", "sum": "add", "mean": "add", "avg": "add"}

Make = Callable[[Mapping[str, ImageValue]], ImageValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFunction:
    """A parsed expression as a function of images."""

    argument_names: tuple[str, ...]
    make: Make

    def __call__(self, *arguments: Any) -> ImageValue:
        values: dict[str, ImageValue] = {}
        for name, value in zip(self.argument_names, arguments, strict=False):
            if isinstance(value, int | float):
                value = ImageValue(constant_bands(value))
            if not isinstance(value, ImageValue):
                raise invalid(f"Image.parseExpression: Argument '{name}' must be an image, got {type_name(value)}.")
            values[name] = value
        return self.make(values)


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise invalid(
                f"Image.parseExpression: Unexpected character at {position}: '{text[position : position + 20]}'."
            )
        tokens.append((match.lastgroup, match.group(match.lastgroup)))
        position = match.end()
    return tokens


class _Parser:
    def __init__(self, context: Context, text: str, default: str, names: Sequence[str], free_as_bands: bool) -> None:
        self._context = context
        self._tokens = _tokens(text)
        self._position = 0
        self._text = text
        self._default = default
        self._names = set(names)
        self._free_as_bands = free_as_bands

    def parse(self) -> Make:
        tree = self._ternary()
        if self._position != len(self._tokens):
            raise self._error(f"unexpected '{self._tokens[self._position][1]}'")
        return tree

    def _error(self, problem: str) -> Exception:
        return invalid(f"Image.parseExpression: {problem} in expression '{self._text}'.")

    def _peek(self) -> str | None:
        return self._tokens[self._position][1] if self._position < len(self._tokens) else None

    def _accept(self, *symbols: str) -> str | None:
        found = self._peek()
        if found in symbols and self._tokens[self._position][0] != "text":
            self._position += 1
            return found
        return None

    def _expect(self, symbol: str) -> None:
        if self._accept(symbol) is None:
            raise self._error(f"expected '{symbol}'")

    def _call(self, name: str, *operands: Make) -> Make:
        keys = ("image1", "image2") if len(operands) == 2 else ("value",)

        def make(values: Mapping[str, ImageValue]) -> ImageValue:
            arguments = {key: operand(values) for key, operand in zip(keys, operands, strict=True)}
            result: ImageValue = calls.call(self._context, f"Image.{name}", arguments)
            return result

        return make

    def _ternary(self) -> Make:
        condition = self._binary(1)
        if self._accept("?") is None:
            return condition
        chosen = self._ternary()
        self._expect(":")
        other = self._ternary()

        def make(values: Mapping[str, ImageValue]) -> ImageValue:
            test, yes, no = condition(values), chosen(values), other(values)
            masked = calls.call(self._context, "Image.updateMask", {"image": no, "mask": calls.call(
                self._context, "Image.mask", {"image": test})})  # fmt: skip
            result: ImageValue = calls.call(self._context, "Image.where", {"input": masked, "test": test, "value": yes})
            return result

        return make

    def _binary(self, lowest: int) -> Make:
        left = self._unary()
        while True:
            symbol = self._peek()
            found = None if symbol is None or self._tokens[self._position][0] == "text" else _BINARY.get(symbol)
            if found is None or found[0] < lowest:
                return left
            self._position += 1
            right = self._binary(found[0] if found[1] == "pow" else found[0] + 1)
            left = self._call(found[1], left, right)

    def _unary(self) -> Make:
        if self._accept("-") is not None:
            return self._call("multiply", self._binary(11), _constant(-1.0))
        if self._accept("+") is not None:
            return self._binary(11)
        if self._accept("!", "not") is not None:
            return self._call("not", self._binary(11))
        if self._accept("~") is not None:
            return self._call("bitwiseNot", self._binary(11))
        return self._postfix(self._primary())

    def _postfix(self, operand: Make) -> Make:
        while True:
            if self._accept(".") is not None:
                kind, name = self._next()
                if kind != "name":
                    raise self._error("expected a band name after '.'")
                operand = _selection(operand, name)
            elif self._accept("[") is not None:
                operand = _selection(operand, self._selector())
                self._expect("]")
            else:
                return operand

    def _next(self) -> tuple[str, str]:
        if self._position >= len(self._tokens):
            raise self._error("unexpected end")
        self._position += 1
        return self._tokens[self._position - 1]

    def _selector(self) -> Any:
        kind, value = self._next()
        if kind == "text":
            return value[1:-1]
        if kind == "number":
            return int(float(value))
        raise self._error("expected a band name or number")

    def _primary(self) -> Make:
        kind, value = self._next()
        if kind == "number":
            return _constant(float(value))
        if value == "(" and kind == "symbol":
            inner = self._ternary()
            self._expect(")")
            return inner
        if kind != "name":
            raise self._error(f"unexpected '{value}'")
        if self._peek() == "(":
            return self._function(value)
        if value in self._names:
            return _variable(value)
        if value in _CONSTANTS:
            return _constant(_CONSTANTS[value])
        if value in ("true", "false"):
            return _constant(float(value == "true"))
        if self._free_as_bands:
            return _selection(_variable(self._default), value)
        raise self._error(f"unknown variable '{value}'")

    def _function(self, name: str) -> Make:
        self._expect("(")
        if name == "b":
            selectors = [self._selector()]
            while self._accept(",") is not None:
                selectors.append(self._selector())
            self._expect(")")
            default = _variable(self._default)
            return lambda values: select_bands("Image.parseExpression", default(values), selectors, None)
        arguments: list[Make] = []
        if self._accept(")") is None:
            arguments.append(self._ternary())
            while self._accept(",") is not None:
                arguments.append(self._ternary())
            self._expect(")")
        return self._apply(name, arguments)

    def _apply(self, name: str, arguments: list[Make]) -> Make:
        if name in _FOLDED and len(arguments) >= 1:
            folded = arguments[0]
            for argument in arguments[1:]:
                folded = self._call(_FOLDED[name], folded, argument)
            if name in ("mean", "avg"):
                folded = self._call("divide", folded, _constant(float(len(arguments))))
            return folded
        signature = calls.signatures().get(f"Image.{name}")
        if signature is None or len(signature.parameters) != len(arguments):
            raise self._error(f"unknown function '{name}' of {len(arguments)} argument(s)")
        names = [parameter.name for parameter in signature.parameters]

        def make(values: Mapping[str, ImageValue]) -> ImageValue:
            given = {key: argument(values) for key, argument in zip(names, arguments, strict=True)}
            result: ImageValue = calls.call(self._context, f"Image.{name}", given)
            return result

        return make


def _constant(value: float) -> Make:
    return lambda values: ImageValue(constant_bands(value))


def _variable(name: str) -> Make:
    def make(values: Mapping[str, ImageValue]) -> ImageValue:
        if name not in values:
            raise invalid(f"Image.parseExpression: No image was given for '{name}'.")
        return values[name]

    return make


def _selection(operand: Make, selector: Any) -> Make:
    return lambda values: select_bands("Image.parseExpression", operand(values), [selector], None)


@algorithm("Image.parseExpression")
def parse_expression(
    context: Context, expression: str, default: str, names: list[str], free_as_bands: bool
) -> ImageFunction:
    tree = _Parser(context, expression, default, names, free_as_bands).parse()
    return ImageFunction(argument_names=tuple(names), make=tree)
