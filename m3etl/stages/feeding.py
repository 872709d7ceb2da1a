"""Chips on their way from planning to fetching, while both go on: what is decided is fetched before its lot is settled,
and planning stays a little ahead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from m3etl.io.ledger_records import unpacked
from m3etl.spec.jobs import ChipScenes

chips_ahead = 4000  # forty seconds at the quota


class Feed:
    """A queue of decided chips between two threads. It holds `chips_ahead` and what was being asked about when it was
    full.
    """

    def __init__(self) -> None:
        self._chips: deque[ChipScenes | bytes] = deque()
        self._is_open = True

    @property
    def waiting(self) -> int:
        """Chips that are decided and not taken; no more are to be decided while they are `chips_ahead`."""
        return len(self._chips)

    def offer(self, chips: Sequence[ChipScenes] | Sequence[bytes]) -> None:
        """Chips whose scenes are recorded, as they are stored perhaps, and whose pixels are to be fetched."""
        self._chips.extend(chips)

    def close(self) -> None:
        """No more chips will come."""
        self._is_open = False

    def __iter__(self) -> Iterator[ChipScenes | None]:
        """The chips in order; None where none has come yet. Ends when it is closed and empty."""
        while True:
            was_open = self._is_open
            if self._chips:
                chip = self._chips.popleft()
                yield unpacked(chip) if isinstance(chip, bytes) else chip
            elif was_open:
                yield None
            else:
                return


class Planning:
    """Runs `plan` in a thread of its own beside the block; the end of the block waits for it and raises what went wrong
    there. plan: fills the feed, and returns early when `stop` is set, as it is where the block raises.
    """

    def __init__(self, plan: Callable[[Feed], None], *, stop: threading.Event) -> None:
        self.feed = Feed()
        self._plan = plan
        self._stop = stop
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="m3etl-plan", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        if kind is not None:
            self._stop.set()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._plan(self.feed)
        except BaseException as error:
            self._error = error
        finally:
            self.feed.close()
