"""Planning answers survive a kill at any byte, and nothing half written is taken for an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.errors import InputError
from m3etl.io.journal import AnswerJournal, question_key
from m3etl.spec.scenes import Candidate


def scenes(count: int) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(level="l2a", scene_id=f"a/{item}", index=str(item), time_ms=item, rank=item, valid=0.5, cloud=None)
        for item in range(count)
    )


def test_what_was_appended_is_read_until_it_is_cleared(tmp_path):
    journal = AnswerJournal(tmp_path / "raw" / "planning.jsonl")
    assert journal.read() == {}
    journal.append({"one": scenes(2)})
    journal.append({"two": (), "one": scenes(3)})
    assert AnswerJournal(tmp_path / "raw" / "planning.jsonl").read() == {"one": scenes(3), "two": ()}
    journal.keep({"two": ()})
    assert journal.read() == {"two": ()}
    journal.keep({})
    journal.keep({})
    assert journal.read() == {}
    assert not list((tmp_path / "raw").iterdir())


@given(st.data())
def test_a_file_cut_anywhere_keeps_the_whole_lines_and_takes_new_ones(tmp_path_factory, data):
    path: Path = tmp_path_factory.mktemp("journal") / "planning.jsonl"
    journal = AnswerJournal(path)
    for number in range(4):
        journal.append({str(number): scenes(number)})
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = {str(number): scenes(number) for number in range(4) if content.index(b'"%d"' % number) < cut}
    found = journal.read()
    assert found.items() <= whole.items()
    assert len(found) >= len(whole) - 1
    journal.append({"new": scenes(1)})
    assert journal.read() == {**found, "new": scenes(1)}


def test_a_directory_in_the_way_is_told(tmp_path):
    (tmp_path / "planning.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot write in"):
        AnswerJournal(tmp_path / "planning.jsonl").append({"one": ()})


def test_keys_differ_by_every_part():
    keys = {question_key(*parts) for parts in [("a", 1, 2), ("a", 12), ("a", 1, None), ("b", 1, 2), ("a", "1", 2)]}
    assert len(keys) == 5
