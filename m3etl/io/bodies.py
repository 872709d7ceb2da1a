"""Bodies of pixel requests without the work of the vendor's encoder: chips that differ only in where they lie and
which scenes they are made of share one encoded graph, into which ids and numbers are set.

The first request of every form is encoded by the client itself, and the form is used only where it gives the same
bytes.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from m3etl.io.pixels import PixelJob, PixelRequest, expression_of
from m3etl.io.recipes import chip_tag, encode_request, list_recipes
from m3etl.spec.chipgrid import ChipGrid, pixel_m
from m3etl.spec.jobs import ArrayScenes, split_mark

most_forms = 2000
# Stand-ins: no value of a real request, and no part of one another as JSON.
_epsg, _xmin, _ymax, _chip_id = 99_999, 123_456_789_012_345.25, 343_210_987_654_321.25, "@chip@"


@dataclass(frozen=True, slots=True)
class _Form:
    """Pieces of text, and between every two of them the position of the value that belongs there. links: what stands
    between the entries of a list value.
    """

    pieces: tuple[str, ...]
    slots: tuple[int, ...]
    links: dict[int, str]

    def filled(self, values: Sequence[str | Sequence[str]]) -> str:
        text = [self.pieces[0]]
        for slot, piece in zip(self.slots, self.pieces[1:], strict=True):
            value = values[slot]
            text.append(value if isinstance(value, str) else self.links[slot].join(value))
            text.append(piece)
        return "".join(text)


class RequestBodies:
    """Bodies for one run, forms kept. Safe to use from several threads."""

    def __init__(self) -> None:
        self._forms: dict[Any, tuple[_Form | None, Any]] = {}
        self._lock = threading.Lock()  # several threads would only make the same forms at the same time

    def body(self, request: PixelRequest) -> str:
        """The JSON body of a request, byte for byte what the client would send."""
        found = self._filled(request)
        if found is None:
            with self._lock:
                found = self._filled(request) or self._encoded(request)
        return found

    def _filled(self, request: PixelRequest) -> str | None:
        """The body by a known form; None where the client has to encode it."""
        for listed in (True, False):
            shape, values = _shape_of(request, listed)
            known = self._forms.get(shape)
            if known is not None and known[0] is not None:
                return known[0].filled(values)
        return None

    def _encoded(self, request: PixelRequest) -> str:
        """The body as the client encodes it; its form is kept."""
        body = encode_request(expression_of(request))
        for listed in (True, False):
            shape, values = _shape_of(request, listed)
            if shape in self._forms:
                continue
            if len(self._forms) >= most_forms:
                self._forms.clear()
            form = _form_of(request, listed)
            is_same = form is not None and form.filled(values) == body
            # The declarations are kept with the form: their identity is part of its key.
            self._forms[shape] = (form if is_same else None, request.job.specs)
            if is_same:
                break
        return body


def _shape_of(request: PixelRequest, listed: bool) -> tuple[Any, list[str | Sequence[str]]]:
    """What decides the form of a request, and the values to be set into it as JSON. listed: one form for any number of
    images of a list; else their number is part of the form.
    """
    chip, window = request.job.chip, request.window
    numbers: dict[str, int] = {}
    lists: dict[tuple[str, ...], int] = {}
    arrays: list[tuple[Any, ...]] = []
    for name in request.arrays:
        spec, ids = request.job.specs[name], request.job.scenes[name].request_ids
        if listed and spec.recipe in list_recipes:
            many = (min(len(ids), 2), ids[0].rpartition("/")[0], lists.setdefault(tuple(ids), len(lists)))
            arrays.append((name, id(spec), many))
            continue
        marked = [split_mark(request_id) for request_id in ids]
        for _, scene_id in marked:
            numbers.setdefault(scene_id, len(numbers))
        # The same id in two places is one node of the graph, so which are equal is part of the form.
        places = tuple((period, scene_id.rpartition("/")[0], numbers[scene_id]) for period, scene_id in marked)
        arrays.append((name, id(spec), places))
    once = len({*numbers, *(item for ids in lists for item in ids)}) == len(numbers) + sum(map(len, lists))
    size = (window.width, window.bottom - window.top, window.top == 0)
    shape = (tuple(arrays), once, bool(lists), chip.chip_px, chip.chips, size, request.check)
    tag = str(chip_tag(chip.chip_id))
    top = json.dumps(chip.ymax - window.top * pixel_m)
    fixed = [str(chip.epsg), json.dumps(chip.xmin), json.dumps(chip.ymax), top, tag]
    return shape, [*fixed, *map(json.dumps, numbers), *(tuple(map(json.dumps, ids)) for ids in lists)]


def _form_of(request: PixelRequest, listed: bool) -> _Form | None:
    """The form of requests of this shape: a stand-in request encoded by the client and cut at its stand-ins. None where
    that can't be done, as for a list of images whose nodes do not simply follow each other.
    """
    standing, ids, lists = _stand_in(request, listed, images=2)
    text = encode_request(expression_of(standing))
    fixed = [
        f"EPSG:{_epsg}",
        json.dumps(_xmin),
        json.dumps(_ymax),
        json.dumps(_ymax - request.window.top * pixel_m),
        str(chip_tag(_chip_id)),
    ]
    marks = {mark: slot for slot, mark in reversed(list(enumerate(fixed)))}
    marks |= {json.dumps(scene_id): len(fixed) + number for number, scene_id in enumerate(ids)}
    links: dict[int, str] = {}
    for number, entries in enumerate(lists):
        slot = len(fixed) + len(ids) + number
        first, last = json.dumps(entries[0]), json.dumps(entries[-1])
        start, end = text.find(first), text.find(last)
        if start < 0 or text.count(first) != 1 or text.count(last) != 1:
            return None
        links[slot] = text[start + len(first) : end]
        text = text[: start + len(first)] + text[end + len(last) :] if len(entries) > 1 else text
        marks[first] = slot
    parts = re.split("(" + "|".join(map(re.escape, sorted(marks, key=len, reverse=True))) + ")", text)
    pieces = list(parts[::2])
    for number, mark in enumerate(parts[1::2]):
        if mark == fixed[0]:
            pieces[number] += "EPSG:"
    form = _Form(tuple(pieces), tuple(marks[mark] for mark in parts[1::2]), links)
    if any(len(entries) > 1 for entries in lists):
        longer, _, _ = _stand_in(request, listed, images=4)
        if form.filled(_shape_of(longer, listed)[1]) != encode_request(expression_of(longer)):
            return None
    return form


def _stand_in(request: PixelRequest, listed: bool, *, images: int) -> tuple[PixelRequest, list[str], list[list[str]]]:
    """A request of the same shape made of stand-ins, with so many images in each list that has more than one; the
    stand-ins of its scene ids, in order, and of its lists.
    """
    job = request.job
    names: dict[str, str] = {}
    lists: dict[tuple[str, ...], list[str]] = {}
    scenes: dict[str, ArrayScenes] = {}
    for name in request.arrays:
        found = job.scenes[name]
        if listed and job.specs[name].recipe in list_recipes:
            folder, count = found.scene_ids[0].rpartition("/")[0], images if len(found.scene_ids) > 1 else 1
            few = [f"{folder}/@{len(lists)}-{number}@" for number in range(count)]
            scenes[name] = replace(found, scene_ids=tuple(lists.setdefault(found.scene_ids, few)))
            continue
        for scene_id in found.scene_ids:
            names.setdefault(scene_id, f"{scene_id.rpartition('/')[0]}/@{len(names)}@")
        scenes[name] = found.renamed(names)
    chip = ChipGrid(
        chip_id=_chip_id, epsg=_epsg, xmin=_xmin, ymax=_ymax, chip_px=job.chip.chip_px, chips=job.chip.chips
    )
    standing = PixelJob(chip=chip, specs=job.specs, scenes=scenes, check=job.check)
    return replace(request, job=standing), list(names.values()), list(lists.values())
