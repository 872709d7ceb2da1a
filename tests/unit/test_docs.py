"""What the documentation shows works: Python blocks run, commands and their options exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from fakes.campaigns import make_campaign
from fakes.chips import all_specs

from m3etl.campaign import read_config
from m3etl.cli.main import cli

repository = Path(__file__).parents[2]
pages = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
written = [page for page in pages if page.name not in ("commands.md", "modalities.md")]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def all_blocks(language: str) -> list[tuple[str, str]]:
    return [(page.name, block) for page in written for block in blocks(page, language)]


@pytest.fixture(scope="module")
def campaign_directory(tmp_path_factory):
    return make_campaign(tmp_path_factory.mktemp("docs") / "c", specs=all_specs, count=12).root


@pytest.mark.parametrize(("page", "code"), all_blocks("python"), ids=lambda value: value[:30] if value else "")
def test_python_examples_run(campaign_directory, monkeypatch, page, code):
    monkeypatch.chdir(campaign_directory)
    exec(compile(code, page, "exec"), {"__name__": "example"})


def commands() -> list[tuple[str, str]]:
    lines = [(page, line) for page, block in all_blocks("bash") for line in block.splitlines()]
    return [(page, line) for page, line in lines if line.startswith("m3etl ")]


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_commands_in_the_documentation_are_accepted(page, line):
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="m3etl")
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page}: there is no command {name}"
        command = found
        context = click.Context(command, info_name=name, parent=context)
    command.parse_args(context, words)


def test_overrides_in_the_documentation_are_options_of_pretrain():
    from m3etl.learn.settings import compose_config

    overrides = [shlex.split(line)[2:] for _page, line in commands() if line.startswith("m3etl pretrain ")]
    assert overrides
    for words in overrides:
        assert compose_config(words)


def test_configuration_examples_are_read(tmp_path):
    examples = all_blocks("toml")
    assert examples
    for _page, text in examples:
        tomllib.loads(text)
        (tmp_path / "campaign.toml").write_text(text)
        read_config(tmp_path / "campaign.toml")


@pytest.mark.parametrize("page", pages, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_targets_of_make_that_are_named_exist():
    makefile = (repository / "Makefile").read_text()
    for page in pages:
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_generated_pages_are_up_to_date():
    result = subprocess.run(
        [sys.executable, str(repository / "docs" / "generate.py"), "--check"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_the_readme_says_what_it_is_for_in_five_lines():
    paragraph = (repository / "README.md").read_text().split("\n\n")[1]
    assert 3 <= len(paragraph.splitlines()) <= 5


def test_everything_in_a_campaign_directory_is_documented(campaign_directory):
    from m3etl.campaign import locked, open_campaign, store_locked

    campaign = open_campaign(campaign_directory)
    with locked(campaign), store_locked(campaign):
        found = {path.name for path in campaign_directory.iterdir()}
    paths = [value for name in dir(campaign) if name.endswith("_path") for value in [getattr(campaign, name)]]
    found |= {path.relative_to(campaign_directory).parts[0] for path in paths} | {".emulator"}
    page = (repository / "docs" / "campaign.md").read_text(encoding="utf-8")
    named = {name.rstrip("/") for name in re.findall(r"`([^`]+)`", page)}
    assert {".lock", ".lock-store", "chips.zarr"} <= found
    assert sorted(found - named) == []
