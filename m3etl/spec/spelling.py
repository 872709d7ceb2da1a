"""What a misspelt name was meant to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def did_you_mean(wrong: str | Sequence[str], known: Iterable[str]) -> str:
    """` (did you mean europe?)` with the nearest known name of each wrong one; "" where nothing is near.

    Case does not matter, and a beginning counts as near.
    """
    import difflib

    by_lower = {name.lower(): name for name in known}
    found: dict[str, None] = {}
    for item in [wrong] if isinstance(wrong, str) else wrong:
        text = item.strip().lower()
        begun = [name for name in by_lower if len(text) >= 3 and name.startswith(text)]
        near = begun[:3] or difflib.get_close_matches(text, by_lower, n=1)
        found.update((by_lower[name], None) for name in near)
    return f" (did you mean {' or '.join(found)}?)" if found else ""
