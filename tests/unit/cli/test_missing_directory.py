"""A mistyped directory costs nothing: only `sample` starts a campaign in a new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3etl.cli.main import run


@pytest.mark.parametrize(
    "command",
    ["export", "tile", "normalize", "preview", "validate", "pretrain", "evaluate", "embed", "status", "describe"],
)
def test_a_directory_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    missing = tmp_path / "typo"
    assert run(["-C", str(missing), command]) == 2
    assert "there is no directory" in capsys.readouterr().err
    assert not missing.exists()
