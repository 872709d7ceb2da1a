"""A mistyped directory costs nothing: only `sample` starts a campaign in a new one."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from m3etl.cli.main import cli


@pytest.mark.parametrize("command", ["export", "tile", "normalize", "preview", "validate", "pretrain"])
def test_a_directory_that_is_not_there_is_refused(tmp_path: Path, command: str) -> None:
    missing = tmp_path / "typo"
    result = CliRunner().invoke(cli, ["-C", str(missing), command])
    assert result.exit_code == 2, result.output
    assert "there is no directory" in result.output
    assert not missing.exists()
