"""The dashboard never pays for torch, and nothing below it for Textual: read from a fresh interpreter's modules."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BELOW = "import telemetry.client, telemetry.hub, telemetry.fold, profiles"
DASHBOARD = "import tui.app, tui.source, tui.demo, tui.__main__"
VIEW = "import tui.view.overview, tui.view.plain, tui.session, tui.source"


@pytest.mark.parametrize(
    ("imports", "unwanted"),
    [
        (DASHBOARD, {"torch", "transformers", "numpy", "fastapi"}),
        (BELOW, {"torch", "textual", "rich"}),
        (VIEW, {"torch", "textual", "rich"}),
    ],
    ids=["dashboard", "below", "view"],
)
def test_imports(imports, unwanted):
    code = f"{imports}\nimport sys; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert not unwanted & set(run.stdout.split())
