"""Publishing: what is written, what is refused, what is sent, and that it is verified afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil

import pandas as pd
import pytest
import yaml
from fakes.campaigns import make_campaign
from fakes.hub import FakeHub

from m3etl.campaign import HubConfig, open_campaign
from m3etl.errors import AuthenticationError, InputError, NothingSelectedError, RemoteError
from m3etl.io import hub
from m3etl.io.hub import check_repository
from m3etl.stages.summary import SilentProgress, size_text
from m3etl.stages.upload import _region_counts, run_upload


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_campaign(tmp_path_factory.mktemp("upload") / "c").root


@pytest.fixture
def campaign(finished, tmp_path):
    """A copy of a finished campaign over real data."""
    shutil.copytree(finished, tmp_path / "c")
    return open_campaign(tmp_path / "c")


def dry(campaign, **options):
    return run_upload(campaign, **{"repo": "a/b", "dry_run": True, "progress": SilentProgress(), **options})


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_has_valid_front_matter(campaign):
    dry(campaign)
    text = (campaign.root / "hub" / "README.md").read_text()
    front = front_matter(text)
    assert front["license"] == "other"
    assert front["license_name"]
    assert front["license_link"] == "LICENSES.md"
    assert front["pretty_name"] == "b"
    assert front["size_categories"] == ["n<1K"]
    assert front["task_categories"] == ["image-feature-extraction"]
    assert "synthetic" not in front["tags"]
    (config,) = front["configs"]
    assert config["default"] is True
    assert config["data_files"] == [{"split": "chips", "path": "metadata.parquet"}]
    for name in ("sentinel2_l2a", "worldcover", "era5_precipitation"):
        assert f"| {name} |" in text
    assert "synthetic" not in text.lower()


def test_the_card_says_in_sentences_what_is_there(campaign):
    dry(campaign)
    text = (campaign.root / "hub" / "README.md").read_text()
    assert "11 chips of 0.16 x 0.16 km (16 x 16 pixels of 10 m) in Europe, from 2017 to 2020." in text
    assert "| Europe | 11 |" in text
    assert "| sentinel2_l2a | `COPERNICUS/S2_SR_HARMONIZED` |" in text
    assert "| sentinel2_l2a | Sentinel-2 reflectance, level L2A |" in text
    assert "all chips of an equal-area block have the same split" in text
    assert "nearer than 5 km" in text
    assert "0.000 GB" not in text
    for line in text.splitlines():
        assert not line.startswith("| ") or line.endswith(" |"), "a row of a table is one line"


def test_regions_are_named_for_people_and_the_rest_is_elsewhere():
    counts = _region_counts(pd.Series(["globe", "conus", "globe", None, "conus", "conus", "conus", "my-valley"]))
    assert "conus" not in counts
    assert list(counts.values()) == [4, 1, 3]
    assert list(counts)[1:] == ["my-valley", "elsewhere"]
    assert _region_counts(pd.Series(["globe", "globe"])) == {"the whole globe": 2}


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (812, "812 bytes"),
        (9_100_000, "9.1 MB"),
        (99_940_000, "99.9 MB"),
        (999_700, "1.0 MB"),
        (123_400_000_000, "123 GB"),
        (1.44e12, "1.4 TB"),
    ],
)
def test_sizes_have_units_a_person_would_choose(nbytes, text):
    assert size_text(nbytes) == text


def test_the_manifest_names_every_file_with_its_size_and_checksum(campaign):
    summary = dry(campaign)
    manifest = json.loads((campaign.root / "hub" / "manifest.json").read_text())
    files = {item["path"]: item for item in manifest["files"]}
    stored = {
        path.relative_to(campaign.root).as_posix()
        for folder in ("chips.zarr", "provenance")
        for path in (campaign.root / folder).rglob("*")
        if path.is_file()
    }
    assert stored | {"README.md", "LICENSES.md", "metadata.parquet", "croissant.json", "stats.json"} == set(files)
    for name, item in files.items():
        source = campaign.root / name if name in stored else campaign.root / "hub" / name
        assert item["size"] == source.stat().st_size
        assert item["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert summary.facts["files"] == len(files) + 1
    assert manifest["dataset_id"] == json.loads(campaign.stats_path.read_text())["dataset_id"]


def test_the_table_has_one_row_per_stored_chip(campaign):
    dry(campaign)
    table = pd.read_parquet(campaign.root / "hub" / "metadata.parquet")
    assert len(table) == 11
    assert table["row"].tolist() == list(range(11))
    assert table["chip_id"].is_unique
    assert set(table["split"]) == {"train", "val", "test"}
    assert table["biome_name"][1] == "Tropical & Subtropical Moist Broadleaf Forests"
    assert table["case"].dropna().to_dict() == {10: "coast"}
    observed = table["sentinel2_l2a_valid_fraction"] > 0
    assert table["sentinel2_l2a_time"].notna().equals(observed)
    assert table.loc[observed, "sentinel2_l2a_time"].dt.strftime("%Y-%m-%d").unique().tolist() == ["2019-07-01"]


def test_croissant_describes_the_table(campaign):
    dry(campaign)
    document = json.loads((campaign.root / "hub" / "croissant.json").read_text())
    assert document["@type"] == "sc:Dataset"
    assert document["conformsTo"].startswith("http://mlcommons.org/croissant/")
    table = pd.read_parquet(campaign.root / "hub" / "metadata.parquet")
    (records,) = document["recordSet"]
    assert [item["name"] for item in records["field"]] == list(table.columns)
    kinds = {item["name"]: item["dataType"] for item in records["field"]}
    assert (kinds["lon"], kinds["row"], kinds["split"]) == ("sc:Float", "sc:Integer", "sc:Text")
    ids = {item["@id"] for item in document["distribution"]}
    assert {item["source"]["fileObject"]["@id"] for item in records["field"]} <= ids
    digest = hashlib.sha256((campaign.root / "hub" / "metadata.parquet").read_bytes()).hexdigest()
    assert document["distribution"][0]["sha256"] == digest


def test_notices_are_reproduced(campaign):
    dry(campaign)
    text = (campaign.root / "hub" / "LICENSES.md").read_text()
    assert "Contains modified Copernicus Sentinel data." in text
    assert "Copernicus Climate Change Service" in text


def test_a_dry_run_sends_nothing(campaign):
    api = FakeHub()
    summary = dry(campaign, api=api)
    assert (summary.done, summary.facts["uploaded"], api.repositories) == (0, False, {})


def test_made_up_data_is_refused_unless_asked_for_and_says_so(tmp_path):
    campaign = make_campaign(tmp_path / "c", origin="planet")
    with pytest.raises(InputError, match="made-up") as caught:
        dry(campaign)
    assert "--synthetic" in caught.value.hint
    assert not (campaign.root / "hub").exists()
    summary = dry(campaign, synthetic=True)
    assert summary.facts["repository"] == "a/b-synthetic"
    text = (campaign.root / "hub" / "README.md").read_text()
    assert "This data is synthetic" in text
    assert "synthetic" in front_matter(text)["pretty_name"]
    assert "synthetic" in front_matter(text)["tags"]
    assert "synthetic" in (campaign.root / "hub" / "LICENSES.md").read_text()
    assert dry(campaign, repo="a/my-synthetic-set", synthetic=True).facts["repository"] == "a/my-synthetic-set"


def test_an_archive_without_stated_terms_is_refused_by_array(tmp_path):
    campaign = make_campaign(tmp_path / "c", origin="archive", licenses={"worldcover": ""})
    with pytest.raises(InputError, match=r"unknown for worldcover \(unknown\)"):
        dry(campaign)


def test_a_share_alike_source_decides_the_terms(tmp_path):
    campaign = make_campaign(tmp_path / "c", origin="archive", licenses={"worldcover": "CC-BY-SA-4.0"})
    assert dry(campaign).facts["license"] == "cc-by-sa-4.0"
    front = front_matter((campaign.root / "hub" / "README.md").read_text())
    assert front["license"] == "cc-by-sa-4.0"
    assert "license_name" not in front


def test_nothing_finished_is_exit_3(tmp_path):
    campaign = make_campaign(tmp_path / "c", statistics=False)
    with pytest.raises(NothingSelectedError, match="no finished data set"):
        dry(campaign)


@pytest.mark.parametrize("limit", ["max_files_per_repository", "max_entries_per_folder", "max_file_bytes"])
def test_limits_of_the_hub_are_checked_before(campaign, monkeypatch, limit):
    monkeypatch.setattr(hub, limit, 3)
    with pytest.raises(InputError, match="the Hub does not take") as caught:
        dry(campaign)
    assert "shard_chips" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "",
        "name",
        "a/b/c",
        "not a repo",
        "a/b c",
        "a/-b",
        "a/b..c",
        "a/b--c",
        "a/b.git",
        "a/b.",
        "a/" + "b" * 100,
        "/b",
        "ä/b",
    ],
)
def test_wrong_repository_names_are_refused(name):
    with pytest.raises(InputError) as caught:
        check_repository(name)
    assert "ORG/NAME" in caught.value.hint


@pytest.mark.parametrize("name", ["a/b", "Org-1/my_set.v2"])
def test_right_repository_names_pass(name):
    assert check_repository(name) == name


def test_the_repository_of_the_configuration_is_used(campaign):
    configured = campaign.with_config(hub=HubConfig(repo="org/configured"))
    assert dry(configured, repo="").facts["repository"] == "org/configured"


def test_an_upload_arrives_whole_and_is_tagged(campaign):
    api = FakeHub()
    summary = run_upload(campaign, repo="a/b", progress=SilentProgress(), api=api)
    manifest = json.loads((campaign.root / "hub" / "manifest.json").read_text())
    assert set(api.repositories["a/b"]) == {item["path"] for item in manifest["files"]} | {"manifest.json"}
    assert summary.done == len(manifest["files"]) + 1
    assert api.calls == ["chips.zarr", "provenance", ""]
    assert api.tags == [("a/b", f"dataset-{manifest['dataset_id'][:12]}")]


def test_a_file_that_is_lost_on_the_way_is_found(campaign):
    api = FakeHub(lose=["chips.zarr/worldcover/*"])
    with pytest.raises(RemoteError, match="have not arrived whole") as caught:
        run_upload(campaign, repo="a/b", progress=SilentProgress(), api=api)
    assert "chips.zarr/worldcover" in caught.value.message
    assert api.tags == []
    api.lose = ()
    run_upload(campaign, repo="a/b", progress=SilentProgress(), api=api)
    assert len(api.tags) == 1


@pytest.mark.parametrize("name", ["chips.zarr/zarr.json", "metadata.parquet"])
def test_a_file_that_arrives_changed_is_found(campaign, name):
    class Changing(FakeHub):
        def upload_folder(self, **options):
            super().upload_folder(**options)
            files = self.repositories["a/b"]
            if name in files:
                files[name] = bytes([files[name][0] ^ 1]) + files[name][1:]

    with pytest.raises(RemoteError, match=name):
        run_upload(campaign, repo="a/b", progress=SilentProgress(), api=Changing())


def test_no_login_says_how_to_log_in(campaign):
    with pytest.raises(AuthenticationError) as caught:
        run_upload(campaign, repo="a/b", progress=SilentProgress(), api=FakeHub(logged_in=False))
    assert caught.value.exit_code == 4
    assert "hf auth login" in caught.value.hint


def test_a_broken_connection_is_exit_4_and_the_next_run_completes(campaign):
    api = FakeHub(fail=ConnectionResetError(104, "Connection reset by peer"))
    with pytest.raises(RemoteError, match="Connection reset") as caught:
        run_upload(campaign, repo="a/b", progress=SilentProgress(), api=api)
    assert "same command again" in caught.value.hint
    run_upload(campaign, repo="a/b", progress=SilentProgress(), api=api)
    assert len(api.tags) == 1


def test_a_bug_is_not_taken_for_the_network(campaign):
    with pytest.raises(KeyError):
        run_upload(campaign, repo="a/b", progress=SilentProgress(), api=FakeHub(fail=KeyError("x")))


def test_the_real_client_offers_these_calls():
    import inspect

    from huggingface_hub import HfApi

    for name in ("whoami", "create_repo", "upload_folder", "list_repo_tree", "create_tag"):
        wanted = set(inspect.signature(getattr(FakeHub, name)).parameters) - {"self"}
        assert wanted <= set(inspect.signature(getattr(HfApi, name)).parameters), name
