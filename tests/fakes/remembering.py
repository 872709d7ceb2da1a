"""The embedded Earth Engine with a memory: what was evaluated once is answered from it, so that a test of the client
can send the same campaign many times. Encoding, HTTP, faults and log are those of the real server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from m3etl.emulator.assets import open_assets
from m3etl.emulator.evaluate import Evaluator
from m3etl.emulator.service import Service


class RememberingEvaluator:
    """An evaluator that answers the same question from memory."""

    def __init__(self, evaluator: Any) -> None:
        self._evaluator = evaluator
        self._answers: dict[str, Any] = {}
        self._lock = threading.Lock()

    def _once(self, name: str, expression: Mapping[str, Any], options: Any, evaluate: Callable[[], Any]) -> Any:
        key = json.dumps([name, expression, repr(options)], sort_keys=True)
        with self._lock:
            if key in self._answers:
                return self._answers[key]
        answer = evaluate()
        with self._lock:
            return self._answers.setdefault(key, answer)

    def __getattr__(self, name: str) -> Any:
        evaluate = getattr(self._evaluator, name)

        def answer(expression: Mapping[str, Any], *, usage: Any = None, **options: Any) -> Any:
            shown = sorted(options.items())
            return self._once(name, expression, shown, lambda: evaluate(expression, usage=usage, **options))

        return answer


def remembering_service(state_dir: Path) -> Service:
    """The service over the planet, with a memory."""
    return Service(
        state_dir=state_dir,
        open_assets=lambda: open_assets(None),
        make_evaluator=lambda assets: RememberingEvaluator(Evaluator(assets)),
    )
