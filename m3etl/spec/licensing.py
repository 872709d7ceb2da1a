"""The terms of a whole data set, from the terms of every array and of every source image that went into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from m3etl.errors import InputError
from m3etl.spec.catalog import License, licenses

# Creative Commons kinds that an archive may bring and the catalogue does not use itself.
further_licenses: Mapping[str, License] = {
    item.id: item
    for item in (
        License(id="CC0-1.0", kind="permissive", title="Creative Commons Zero 1.0"),
        License(
            id="CC-BY-NC-4.0",
            kind="non-commercial",
            title="Creative Commons Attribution-NonCommercial 4.0",
            url="https://creativecommons.org/licenses/by-nc/4.0/",
        ),
        License(
            id="CC-BY-NC-SA-4.0",
            kind="share-alike non-commercial",
            title="Creative Commons Attribution-NonCommercial-ShareAlike 4.0",
            url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
        ),
        License(id="ODbL-1.0", kind="share-alike database", title="Open Data Commons Open Database License 1.0"),
    )
}

_known: Mapping[str, License] = {item.id.lower(): item for item in (*licenses.values(), *further_licenses.values())}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverallLicense:
    """The terms under which a data set may be published.

    hub_id: the Hub's identifier (`other`, `cc-by-sa-4.0`); name: human-readable; arrays: array name -> its licences;
    notices: texts to reproduce, each once.
    """

    hub_id: str
    name: str
    arrays: Mapping[str, tuple[License, ...]]
    notices: tuple[str, ...]


def find_license(license_id: str) -> License:
    """The terms known under this id (upper and lower case alike); unknown ids give terms of kind "unknown"."""
    known = _known.get(license_id.strip().lower())
    return known or License(id=license_id or "unknown", kind="unknown", title=f"Unknown ({license_id or 'not stated'})")


def overall_license(used: Mapping[str, Iterable[str]]) -> OverallLicense:
    """The overall terms of arrays with these licence ids (`array -> ids`, from the catalogue and from provenance).

    Permissive sources together: `other`, with the list and the notices. One share-alike source: share-alike for all.
    Raises InputError, naming the arrays, where terms are unknown or cannot be met together (share-alike with
    non-commercial, or two different share-alike licences).
    """
    arrays = {
        name: tuple(find_license(item) for item in sorted(_single_ids(ids), key=str.lower))
        for name, ids in sorted(used.items())
    }
    unknown = _arrays_of(arrays, lambda terms: terms.kind == "unknown")
    if unknown:
        raise InputError(
            f"cannot publish: the licence is unknown for {_listed(unknown)}",
            hint='State it in archive.jsonl (for example `"license": "CC-BY-4.0"`) and export again, or leave it out.',
        )
    share_alike = _arrays_of(arrays, lambda terms: terms.kind.startswith("share-alike"))
    restricted = _arrays_of(arrays, lambda terms: "non-commercial" in terms.kind)
    kinds = {item for names in share_alike.values() for item in names}
    if len(kinds) > 1 or (kinds and any(set(ids) - kinds for ids in restricted.values())):
        raise InputError(
            f"cannot publish: no licence meets all of {_listed({**share_alike, **restricted})}",
            hint="Leave one side out: export the others into a campaign of their own and upload that.",
        )
    notices = tuple(dict.fromkeys(item.notice for terms in arrays.values() for item in terms if item.notice))
    if kinds:
        terms = find_license(next(iter(kinds)))
        hub_id = terms.id.lower() if terms.id.startswith("CC-") else "odbl"
        return OverallLicense(hub_id=hub_id, name=terms.title, arrays=arrays, notices=notices)
    name = "several non-commercial and permissive licences" if restricted else "several permissive licences"
    return OverallLicense(hub_id="other", name=name, arrays=arrays, notices=notices)


def _single_ids(ids: Iterable[str]) -> set[str]:
    """The licences of expressions such as `CC-BY-4.0 AND synthetic`, recorded where a chip has several sources."""
    return {item.strip() for expression in ids for item in expression.split(" AND ")}


def _arrays_of(arrays: Mapping[str, tuple[License, ...]], chosen: Callable[[License], bool]) -> dict[str, list[str]]:
    found = {name: [item.id for item in terms if chosen(item)] for name, terms in arrays.items()}
    return {name: ids for name, ids in found.items() if ids}


def _listed(found: Mapping[str, Iterable[str]]) -> str:
    return "; ".join(f"{name} ({', '.join(ids)})" for name, ids in found.items())
