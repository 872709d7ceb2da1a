"""Overall terms: permissive together, share-alike dominates, unknown and contradicting terms are refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.errors import InputError
from m3etl.spec.catalog import licenses
from m3etl.spec.licensing import find_license, overall_license

permissive = [item.id for item in licenses.values() if item.kind == "permissive"]


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3), st.sets(st.sampled_from(permissive), min_size=1), min_size=1
    )
)
def test_permissive_sources_together_are_other_with_their_notices_once(used):
    overall = overall_license(used)
    assert overall.hub_id == "other"
    assert set(overall.arrays) == set(used)
    wanted = {licenses[item].notice for ids in used.values() for item in ids if licenses[item].notice}
    assert set(overall.notices) == wanted
    assert len(overall.notices) == len(wanted)


def test_share_alike_dominates():
    overall = overall_license({"a": ["CC-BY-4.0"], "b": ["CC-BY-SA-4.0"], "c": ["copernicus-sentinel"]})
    assert overall.hub_id == "cc-by-sa-4.0"
    assert "ShareAlike" in overall.name
    assert "Contains modified Copernicus Sentinel data." in overall.notices


@pytest.mark.parametrize("terms", ["unknown", "", "whatever"])
def test_unknown_terms_are_refused_and_the_arrays_named(terms):
    with pytest.raises(InputError, match="worldcover") as caught:
        overall_license({"worldcover": ["CC-BY-4.0", terms], "aster_slope": ["nasa-open"]})
    assert "aster_slope" not in caught.value.message
    assert "archive.jsonl" in caught.value.hint


def test_share_alike_with_non_commercial_is_refused_and_the_arrays_named():
    with pytest.raises(InputError, match="no licence meets") as caught:
        overall_license({"a": ["CC-BY-SA-4.0"], "b": ["CC-BY-NC-4.0"], "c": ["CC-BY-4.0"]})
    assert "a (CC-BY-SA-4.0)" in caught.value.message
    assert "b (CC-BY-NC-4.0)" in caught.value.message
    assert "c (" not in caught.value.message


def test_two_share_alike_licences_are_refused():
    with pytest.raises(InputError, match="no licence meets"):
        overall_license({"a": ["CC-BY-SA-4.0"], "b": ["ODbL-1.0"]})


def test_non_commercial_alone_is_said():
    overall = overall_license({"a": ["CC-BY-NC-4.0"], "b": ["CC-BY-4.0"]})
    assert overall.hub_id == "other"
    assert "non-commercial" in overall.name


def test_ids_are_found_in_any_case():
    assert find_license("cc-by-4.0 ").id == "CC-BY-4.0"
    assert find_license("made up").kind == "unknown"


def test_a_chip_of_several_sources_has_all_their_terms():
    overall = overall_license({"sentinel2_cloud": ["CC-BY-SA-4.0 AND synthetic"], "month": ["own"]})
    assert [item.id for item in overall.arrays["sentinel2_cloud"]] == ["CC-BY-SA-4.0", "synthetic"]
    assert overall.hub_id == "cc-by-sa-4.0"
