"""Wrong arguments: the value, the rule and what would do, on stderr, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.commands import app
from profiles.listing import SAMPLES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run-dir", "/x", "status"], ("--run-dir before 'status'", "shardscope status --help")),
        (["--readonly", "deploy", "m"], ("--readonly before 'deploy'",)),
        (["--source", "nope"], ("--source nope", "'live' or 'demo'")),
        (["--source", "demo", "--layout", "tp0"], ("--layout tp0", "a whole number, 1 or more", "nearest that works: tp2pp2")),
        (["--source", "demo", "--layout", "two"], ("--layout two", "write degrees as tp2pp2")),
        (["--source", "demo", "--layout", "tp9999"], ("9999 ranks", "at most 64 ranks", "nearest that works: tp2pp2")),
        (["--source", "demo", "--layout", "pp49"], ("49 stages", "48 layers")),
        (["stress", "x", "--url", "ftp://h:1"], ("--url 'ftp://h:1'", "must begin with http://", "http://h:1")),
        (["--connect", "tcp://1.2.3.4:99"], ("--connect tcp://1.2.3.4:99", "--curve-keys DIR")),
        (["generate", "m", "--prompt", "x", "--tp", "0"], ("tp 0",)),
        (["deploy", "m", "--name", "n" * 300], ("300 bytes", "255")),
        (["deplo"], ("'deplo'", "'deploy'")),
    ],
)
def test_wrong_arguments(arguments: list[str], words: tuple[str, ...]) -> None:
    told = CliRunner().invoke(app, arguments)
    assert (told.exit_code, told.stdout) == (2, "")
    assert all(each in told.stderr for each in words), told.stderr


def test_logs_that_there_are_not_name_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "logs" / "demo").mkdir(parents=True)
    (tmp_path / "logs" / "demo" / "rank-0.log").write_text("a line\n")
    for arguments, there in ((["logs", "nope"], "there are: demo"), (["logs", "demo", "--rank", "7"], "there are: rank-0")):
        told = CliRunner().invoke(app, [*arguments, "--run-dir", str(tmp_path)])
        assert told.exit_code == 2
        assert there in told.stderr


def test_the_run_directory_of_the_environment_is_for_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDSCOPE_RUN_DIR", str(tmp_path))
    told = CliRunner().invoke(app, ["status"])
    assert told.exit_code == 1
    assert f"no daemon runs in {tmp_path}" in told.stderr


def test_a_full_disk_is_named_with_the_file() -> None:
    told = CliRunner().invoke(app, ["export", str(SAMPLES / "tp4.mcap"), "--format", "chrome", "-o", "/dev/full"])
    assert (told.exit_code, told.stderr) == (1, "error: /dev/full: No space left on device\n")


def test_a_demo_model_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = CliRunner().invoke(app, ["demo", "--headless", "--dir", str(tmp_path / "file" / "model")])
    assert (told.exit_code, told.stdout) == (1, "")
    assert f"made in {tmp_path / 'file'}: File exists; choose another --dir" in told.stderr
