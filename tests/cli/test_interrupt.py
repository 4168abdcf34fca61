"""Ctrl-C while a command still imports: it ends without a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

# a Ctrl-C at the very moment at which a module is looked for
INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
signal.signal(signal.SIGINT, signal.{before})
sys.argv = ["shardscope", *{command!r}]
import shardscope
shardscope.main()
"""


def interrupted(module: str, *command: str, before: str = "default_int_handler") -> subprocess.CompletedProcess[str]:
    program = INTERRUPTED.format(module=module, command=command, before=before)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("typer", ["status"]),
        ("cli.deployments", ["status"]),
        ("runtime.planner.command", ["--help"]),
        ("tui.app", ["keys"]),  # what a command imports for itself
        ("textual", ["keys"]),
        ("tui.demo", ["--source", "demo"]),
    ],
)
def test_ctrl_c_during_an_import_is_quiet(module: str, command: list[str]) -> None:
    ended = interrupted(module, *command)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """As behind `nohup` or `&` in a script."""
    ended = interrupted("cli.deployments", "--help", before="SIG_IGN")
    assert ended.returncode == 0
    assert "reconfigure" in ended.stdout
