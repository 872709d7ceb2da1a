"""The anchor is the one that asking one question after the other would give, in far fewer rounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from m3etl.spec.scenes import AnchorRule, Candidate, choose_anchor, choose_nearest, utc_ms, year_window
from m3etl.spec.search import Round, Search, either_level, rounds_of

wish = utc_ms("2020-06-10")


def scene(asked: Round, number: int, cloud: float) -> Candidate:
    time_ms = asked.start_ms + number * 1000
    level = "l1c" if asked.level == "l1c" else "l2a"
    name = f"{asked.level}/{time_ms}"
    return Candidate(level=level, scene_id=name, index=name, time_ms=time_ms, rank=number, valid=1.0, cloud=cloud)


def one_after_the_other(rounds, world, rule, key, moment):
    """The plainest search there is: the anchor and what was seen on the way."""
    seen, decided = [], set()
    for asked in rounds:
        window = (asked.start_ms, asked.end_ms)
        if window in decided:
            continue
        if moment is None:
            found = world[asked]
            seen += found
            anchor = choose_anchor(found, rule, key)
            if found:
                decided.add(window)
        else:
            decided.add(window)
            found = [item for other in rounds if (other.start_ms, other.end_ms) == window for item in world[other]]
            seen += found
            anchor = choose_nearest(found, rule, moment)
        if anchor is not None:
            return anchor, seen
    return None, seen


@given(
    st.sampled_from(["auto", "both", "l2a", "l1c"]),
    st.integers(2017, 2020),
    st.booleans(),
    st.sampled_from(["best", "random"]),
    st.data(),
)
def test_it_is_what_one_question_after_the_other_would_find(s2, year, dated, rule_name, data):
    rule = AnchorRule(rule=rule_name, max_cloud=0.1, min_valid=0.9, seed=3)
    moment = wish if dated else None
    rounds = rounds_of(s2=s2, key="k", year=year, years=(2017, 2020), seed=3, wish_ms=moment)
    clouds = st.lists(st.sampled_from([0.0, 0.05, 0.5, 1.0]), max_size=2)
    world = {asked: [scene(asked, *item) for item in enumerate(data.draw(clouds))] for asked in rounds}
    search = Search(key="k", rule=rule, rounds=rounds, wish_ms=moment)
    turns = 0
    while True:
        anchor, missing = search.advance()
        if not missing:
            break
        turns += 1
        assert anchor is None
        assert not set(missing) & set(search.answers), "nothing is asked twice"
        for asked in missing:
            search.answers[asked] = tuple(world[asked])
    expected, seen = one_after_the_other(rounds, world, rule, "k", moment)
    assert anchor == expected
    assert turns <= 3
    if expected is None:
        assert sorted(map(str, search.seen)) == sorted(map(str, seen))


def test_the_first_question_is_about_the_preferred_year_alone():
    rounds = rounds_of(s2="auto", key="k", year=2019, years=(2017, 2020), seed=0, wish_ms=None)
    search = Search(key="k", rule=AnchorRule(rule="best", max_cloud=0.1, min_valid=0.9, seed=0), rounds=rounds)
    _, (first,) = search.advance()
    assert first == Round("l2a", *year_window(2019))
    search.answers[first] = ()
    _, rest = search.advance()
    assert rest[0] == Round("l1c", *year_window(2019)), "without any scene the other level is asked for"
    assert {(item.level, item.start_ms) for item in rest[1:]} == {
        (level, year_window(year)[0]) for level, year in ((either_level, 2017), (either_level, 2018), ("l2a", 2020))
    }


def test_a_wished_moment_is_searched_in_both_levels_at_once():
    rounds = rounds_of(s2="auto", key="k", year=2019, years=(2017, 2020), seed=0, wish_ms=wish)
    search = Search(
        key="k", rule=AnchorRule(rule="best", max_cloud=0.1, min_valid=0.9, seed=0), rounds=rounds, wish_ms=wish
    )
    _, first = search.advance()
    assert [item.level for item in first] == ["l2a", "l1c"]
    assert {item.wish_ms for item in first} == {wish}
    assert {item.wish_ms for item in rounds[2:]} == {None}, "further away the least cloudy scenes are scored"
