"""The command line, called in this process and in an empty folder."""

import sys
from pathlib import Path

import pytest
from called import Command, Outcome

import flowvae_tutorial.experiments.commands as command_line


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Files that want other data, or less to compute, override it with one that asks for it."""
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["flowvae_tutorial", *line.split()])
        with pytest.raises(SystemExit) as end:
            command_line.main()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, *capsys.readouterr())

    return call
