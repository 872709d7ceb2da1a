"""The expression graph: parsing of value nodes and their evaluation, without recursion over the depth of the graph.

A node's value is computed once per scope: nodes that use no function argument once per request, others once per call of
the function whose argument they use. The branches of `If` are evaluated only when chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from m3etl.emulator.evaluate import calls
from m3etl.emulator.evaluate.context import Context
from m3etl.emulator.model import invalid

_MISSING = object()


class Node:
    """A parsed value node: its kind, payload, children, and the function arguments it depends on."""

    __slots__ = ("children", "free", "kind", "names", "payload")

    def __init__(self, kind: str, payload: Any, children: tuple[Node, ...], names: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.payload = payload
        self.children = children
        self.names = names
        self.free: frozenset[str] = frozenset()


class Scope:
    """The arguments of one function call, on top of those around it, and the values computed in it."""

    __slots__ = ("memo", "parent", "values")

    def __init__(self, values: Mapping[str, Any], parent: Scope | None) -> None:
        self.values = values
        self.parent = parent
        self.memo: dict[Node, Any] = {}

    def holder(self, free: frozenset[str]) -> Scope:
        """The innermost scope that binds one of the names, else the outermost."""
        scope = self
        while scope.parent is not None and free.isdisjoint(scope.values):
            scope = scope.parent
        return scope


class Closure:
    """A function of the graph with the scope it was made in."""

    __slots__ = ("_body", "_evaluate", "_scope", "argument_names")

    def __init__(self, node: Node, scope: Scope, evaluate: Callable[[Node, Scope], Any]) -> None:
        self.argument_names = node.names
        self._body = node.payload
        self._scope = scope
        self._evaluate = evaluate

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) < len(self.argument_names):
            raise invalid(f"A function takes {len(self.argument_names)} arguments, {len(arguments)} were given.")
        values = dict(zip(self.argument_names, arguments, strict=False))
        return self._evaluate(self._body, Scope(values, self._scope))


class NamedFunction:
    """An algorithm used as a value, e.g. the function of a map."""

    __slots__ = ("_context", "_name", "argument_names")

    def __init__(self, context: Context, name: str) -> None:
        self.argument_names = tuple(parameter.name for parameter in calls.find_signature(name).parameters)
        self._context = context
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        return calls.call(self._context, self._name, dict(zip(self.argument_names, arguments, strict=False)))


def evaluate(expression: Mapping[str, Any], context: Context) -> Any:
    """The value of a serialised expression {"result": key, "values": {key: node}}."""
    values, result = expression.get("values"), expression.get("result")
    if not isinstance(values, Mapping) or result not in values:
        raise invalid("The expression has no result: 'result' must name one of 'values'.")
    return _Evaluation(context).run(_Parser(values).parse(str(result)), Scope({}, None))


class _Parser:
    """Turns JSON nodes into `Node`s; a key is parsed once, so shared nodes stay shared."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._keys: dict[str, Node] = {}
        self._opened: set[str] = set()

    def parse(self, result: str) -> Node:
        """The node of a key."""
        built: dict[int, Node] = {}
        opened: set[int] = set()
        work: list[tuple[Any, str | None]] = [(self._value(result), result)]
        while work:
            raw, key = work[-1]
            if id(raw) not in built:
                if id(raw) not in opened:
                    opened.add(id(raw))
                    if key is not None:
                        self._opened.add(key)
                    pending = self._pending(raw, built)
                    if pending:
                        work.extend(reversed(pending))
                        continue
                built[id(raw)] = self._finish(raw, built)
            work.pop()
            if key is not None:
                self._keys[key] = built[id(raw)]
        return self._keys[result]

    def _value(self, key: str) -> Any:
        if key not in self._values:
            raise invalid(f"The expression refers to a value '{key}' that is not defined.")
        return self._values[key]

    def _pending(self, raw: Any, built: Mapping[int, Node]) -> list[tuple[Any, str | None]]:
        """Children that are not parsed yet; meeting a key whose parsing has begun is a cycle."""
        pending: list[tuple[Any, str | None]] = []
        for child in self._children(raw):
            if not isinstance(child, str):
                if id(child) not in built:
                    pending.append((child, None))
            elif child not in self._keys:
                if child in self._opened:
                    raise invalid(f"The expression is cyclic at value '{child}'.")
                pending.append((self._value(child), child))
        return pending

    def _children(self, raw: Any) -> list[Any]:
        """Child nodes in order: a key (str) for a reference, JSON for an inlined node."""
        kind, body = _kind(raw)
        if kind == "valueReference":
            return [str(body)]
        if kind == "arrayValue":
            return list(body.get("values", ()))
        if kind == "dictionaryValue":
            return list(body.get("values", {}).values())
        if kind == "functionDefinitionValue":
            return [str(body["body"])]
        if kind == "functionInvocationValue":
            called = [str(body["functionReference"])] if "functionReference" in body else []
            return called + list(body.get("arguments", {}).values())
        return []

    def _finish(self, raw: Any, built: Mapping[int, Node]) -> Node:
        kind, body = _kind(raw)
        children = [self._keys[child] if isinstance(child, str) else built[id(child)] for child in self._children(raw)]
        if kind == "valueReference":
            return children[0]
        node = _make(kind, body, tuple(children))
        free: frozenset[str] = frozenset().union(*(child.free for child in children))
        if kind == "argumentReference":
            free = frozenset([str(body)])
        elif kind == "functionDefinitionValue":
            free -= frozenset(node.names)
        node.free = free
        return node


_KINDS = (
    "constantValue",
    "integerValue",
    "bytesValue",
    "arrayValue",
    "dictionaryValue",
    "valueReference",
    "argumentReference",
    "functionInvocationValue",
    "functionDefinitionValue",
)


def _kind(raw: Any) -> tuple[str, Any]:
    if isinstance(raw, Mapping):
        for kind in _KINDS:
            if kind in raw:
                return kind, raw[kind]
    raise invalid(f"The expression has a value node of no known kind: {str(raw)[:120]}")


def _make(kind: str, body: Any, children: tuple[Node, ...]) -> Node:
    if kind == "integerValue":
        return Node("constantValue", int(body), ())
    if kind == "dictionaryValue":
        return Node(kind, None, children, tuple(body.get("values", {})))
    if kind == "functionDefinitionValue":
        return Node(kind, children[0], children, tuple(body.get("argumentNames", ())))
    if kind == "functionInvocationValue":
        names = tuple(body.get("arguments", {}))
        name = body.get("functionName")
        if name is not None:
            return Node("call", str(name), children, names)
        return Node("apply", None, children, names)
    return Node(kind, body, children)


class _Evaluation:
    """One walk over a parsed graph."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def run(self, root: Node, scope: Scope) -> Any:
        """The value of a node in a scope."""
        stack = [root]
        while stack:
            node = stack[-1]
            memo = scope.holder(node.free).memo
            if node in memo:
                stack.pop()
                continue
            waiting = [child for child in self._wanted(node, scope) if child not in scope.holder(child.free).memo]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            memo[node] = self._compute(node, scope)
            stack.pop()
        return scope.holder(root.free).memo[root]

    def _get(self, node: Node, scope: Scope) -> Any:
        return scope.holder(node.free).memo[node]

    def _wanted(self, node: Node, scope: Scope) -> tuple[Node, ...]:
        """The children whose values are needed now; for If the condition first, then one branch."""
        if node.kind == "functionDefinitionValue":
            return ()
        if node.kind == "call" and node.payload == "If":
            arguments = dict(zip(node.names, node.children, strict=True))
            condition = arguments.get("condition")
            if condition is not None and condition not in scope.holder(condition.free).memo:
                return (condition,)
            chosen = arguments.get(self._branch(condition, scope))
            return () if chosen is None else (chosen,)
        return node.children

    def _branch(self, condition: Node | None, scope: Scope) -> str:
        return "trueCase" if condition is not None and is_true(self._get(condition, scope)) else "falseCase"

    def _compute(self, node: Node, scope: Scope) -> Any:
        kind = node.kind
        if kind == "call":
            return self._call(node, scope)
        if kind == "constantValue":
            return node.payload
        if kind == "argumentReference":
            return self._argument(node.payload, scope)
        if kind == "arrayValue":
            return [self._get(child, scope) for child in node.children]
        if kind == "dictionaryValue":
            return {name: self._get(child, scope) for name, child in zip(node.names, node.children, strict=True)}
        if kind == "functionDefinitionValue":
            return Closure(node, scope, self.run)
        if kind == "apply":
            return self._apply(node, scope)
        raise invalid(f"Value nodes of kind {kind} are not supported.")

    def _call(self, node: Node, scope: Scope) -> Any:
        if node.payload == "If":
            calls.find_signature("If")
            arguments = dict(zip(node.names, node.children, strict=True))
            chosen = arguments.get(self._branch(arguments.get("condition"), scope))
            return None if chosen is None else self._get(chosen, scope)
        values = {
            name: scope.holder(child.free).memo[child] for name, child in zip(node.names, node.children, strict=True)
        }
        self._context.budget.check_time()
        return calls.call(self._context, node.payload, values)

    def _argument(self, name: str, scope: Scope) -> Any:
        found: Scope | None = scope
        while found is not None:
            value = found.values.get(name, _MISSING)
            if value is not _MISSING:
                return value
            found = found.parent
        raise invalid(f"The expression uses an argument '{name}' outside its function.")

    def _apply(self, node: Node, scope: Scope) -> Any:
        function = self._get(node.children[0], scope)
        if isinstance(function, str):
            function = NamedFunction(self._context, function)
        if not callable(function):
            raise invalid("functionReference must refer to a function.")
        given = dict(zip(node.names, (self._get(child, scope) for child in node.children[1:]), strict=True))
        names: tuple[str, ...] = function.argument_names
        unknown = sorted(given.keys() - set(names))
        if unknown:
            raise invalid(f"A function has no argument(s) named {', '.join(unknown)}; it takes {', '.join(names)}.")
        return function(*(given.get(name) for name in names))


def is_true(value: Any) -> bool:
    """The service's reading of a condition: zero, NaN, null and empty strings, lists and dictionaries are false."""
    if value is None or (isinstance(value, str | list | dict) and not value):
        return False
    if isinstance(value, int | float):
        return value == value and value != 0
    return True
