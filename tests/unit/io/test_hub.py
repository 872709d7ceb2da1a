"""The Hub through its real client, over a socket: login, upload, what is there, and refusals."""

from __future__ import annotations

import pytest
from fakes.hub_server import hub_server, token
from huggingface_hub import HfApi

from m3etl.errors import AuthenticationError, RemoteError
from m3etl.io import hub


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "data" / "a.json").write_text("{}")
    (tmp_path / "data" / "inner" / "b.bin").write_bytes(bytes(range(256)))
    (tmp_path / "data" / ".hidden.tmp").write_text("unfinished")
    return tmp_path / "data"


def test_a_folder_arrives_and_is_listed_with_its_checksums(folder):
    with hub_server() as server:
        api = HfApi(endpoint=server.url, token=token)
        hub.check_login(api)
        hub.create_repository(api, "org/set")
        hub.create_repository(api, "org/set")
        hub.upload_folder(api, "org/set", folder, "chips.zarr", "data")
        assert server.files["org/set"] == {
            "chips.zarr/a.json": b"{}",
            "chips.zarr/inner/b.bin": bytes(range(256)),
        }
        remote = hub.list_remote_files(api, "org/set")
        assert {path: file.size for path, file in remote.items()} == {
            "chips.zarr/a.json": 2,
            "chips.zarr/inner/b.bin": 256,
        }
        from m3etl.io.publication import git_sha1

        assert remote["chips.zarr/inner/b.bin"].git_sha1 == git_sha1(folder / "inner" / "b.bin")
        hub.tag_revision(api, "org/set", "v1")
        assert server.tags == {"org/set": ["v1"]}


def test_a_wrong_token_is_a_login_problem():
    with hub_server() as server, pytest.raises(AuthenticationError, match="does not accept the login") as caught:
        hub.check_login(HfApi(endpoint=server.url, token="hf_wrong"))
    assert "hf_wrong" not in str(caught.value)


def test_no_token_is_a_login_problem(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with hub_server() as server, pytest.raises(AuthenticationError, match="does not accept the login") as caught:
        hub.open_hub(server.url)
    assert "hf auth login" in caught.value.hint


def test_a_hub_that_is_not_there_is_exit_4():
    with pytest.raises(RemoteError) as caught:
        hub.check_login(HfApi(endpoint="http://127.0.0.1:9", token=token))
    assert caught.value.exit_code == 4
    assert not isinstance(caught.value, AuthenticationError)


def test_a_refused_commit_is_an_error_and_the_next_run_completes(folder):
    with hub_server() as server:
        api = HfApi(endpoint=server.url, token=token)
        hub.create_repository(api, "org/set")
        server.refuse = 1
        with pytest.raises(RemoteError):
            hub.upload_folder(api, "org/set", folder, "", "data")
        assert server.files["org/set"] == {}
        hub.upload_folder(api, "org/set", folder, "", "data")
        assert len(server.files["org/set"]) == 2
