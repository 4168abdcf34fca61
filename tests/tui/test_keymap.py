"""The user's own keys: what the file may say, what is said of a wrong one, and that the new keys work and are shown."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from driving import dashboard, redrawn
from terminal import shown

from tui import keys
from tui.app import tables
from tui.keymap import Keymap, KeymapError, listing, parsed, read_keymap
from tui.screens.help import HelpScreen

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("", {}),
        ('[app]\npause = "p"', {"app.pause": "p"}),
        ('app.pause = "p"', {"app.pause": "p"}),
        ('[rank]\nrank = ["n", "ctrl+n", "]"]', {"rank.rank": "n,ctrl+n,right_square_bracket"}),
        ('[overview]\nsort = "!"', {"overview.sort": "exclamation_mark"}),
        ('[overview]\nsort = "/"\nfilter = "f3"', {"overview.sort": "slash", "overview.filter": "f3"}),
        ('[overview]\nsort = "v"\ntable-grid = "s"', {"overview.sort": "v", "overview.table-grid": "s"}),
    ],
)
def test_what_the_file_may_say(text, bound):
    assert parsed(text, tables()).bound == bound


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[app]\n\npauze = "p"', ("line 3", "no action 'app.pauze'", "nearest is 'app.pause'")),
        ('[ap]\npause = "p"', ("line 1", "[ap]", "tables are app, view, overview")),
        ('pause = "p"', ("line 1", "'pause' stands outside")),
        ('[app]\npause = "spacebar"', ("line 2", "'spacebar', which is no key", "nearest is 'space'")),
        ('[app]\npause = "hyper+p"', ("line 2", "'hyper' is none of ctrl, shift, alt")),
        ("[app]\npause = 3", ("line 2", "a key or a list of keys", "not 3")),
        ("[app]\npause = []", ("line 2", "a key or a list of keys")),
        ('[app]\ntheme = "y"\npause = "q"', ("line 3", "'q' would mean both app.pause and app.quit", "another key")),
        ('[app]\npause = "v"', ("line 2", "'v' would mean both overview.table-grid and app.pause")),
        ('[app]\npause = "p', ("line 2", "Unterminated string")),
    ],
)
def test_a_wrong_file_is_told_by_line_rule_and_nearest(text, words):
    with pytest.raises(KeymapError) as told:
        parsed(text, tables())
    for word in words:
        assert word in str(told.value)


def test_every_action_has_a_name_of_its_own():
    names = [key.named(table) for table, of in tables().items() for key in of]
    assert len(names) == len(set(names))


def test_the_listing_is_a_file_that_changes_nothing():
    text = "\n".join(listing(tables(), Keymap()))
    assert parsed(text, tables()) == Keymap()
    changed = text.replace('\npause = "space"', '\npause = "p"    ')
    assert listing(tables(), parsed(changed, tables()))[1:] == changed.splitlines()[1:]


def test_no_file_is_no_error_unless_it_was_named(tmp_path, monkeypatch):
    monkeypatch.delenv("SHARDSCOPE_KEYS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert read_keymap(tables) == Keymap()
    place = tmp_path / "shardscope" / "keys.toml"
    place.parent.mkdir()
    place.write_text('[app]\npause = "p"\n')
    assert read_keymap(tables).bound == {"app.pause": "p"}
    monkeypatch.setenv("SHARDSCOPE_KEYS", str(tmp_path / "gone.toml"))
    with pytest.raises(KeymapError, match="no such file"):
        read_keymap(tables)


def test_nothing_is_bound_that_tmux_takes():
    taken = {"ctrl+a", "ctrl+b", "ctrl+enter"}
    assert not taken & {each for of in tables().values() for key in of for each in key.key.split(",")}


async def test_the_new_key_works_the_old_one_does_not_and_the_footer_knows():
    keymap = parsed('[app]\npause = "p"\nhelp = "h"\n[overview]\ntable-grid = ["g", "ctrl+g"]', tables())
    async with dashboard(keymap=keymap) as (app, pilot):
        foot = shown(app)[-1]
        assert "p pause" in foot
        assert "h help" in foot
        assert "g ^g table/grid" in foot
        await pilot.press("space")
        assert "PAUSED" not in (await redrawn(app, pilot))[0]
        await pilot.press("p")
        assert "PAUSED" in (await redrawn(app, pilot))[0]
        assert any("── stage 0" in line for line in shown(app))
        await pilot.press("g")
        assert not any("── stage 0" in line for line in await redrawn(app, pilot))
        assert "p" in {key.shown for key in app.screen.all_keys() if key.action == "app.pause"}


async def test_hints_name_the_keys_in_force():
    keymap = parsed('[app]\ndeploy = "D"\n[overview]\nclear-filter = "ctrl+x"\n[rank]\nprevious-rank = "p"', tables())
    async with dashboard(98, size=(120, 40), keymap=keymap) as (app, pilot):
        assert any(line.endswith("[D]") for line in shown(app))
        await pilot.press("slash", *"r99", "enter")
        assert "no rank matches the filter; ^x clears it" in "\n".join(await redrawn(app, pilot))
        await pilot.press("2")
        foot = (await redrawn(app, pilot))[-1]
        assert "] rank" in foot
        assert "[ ]" not in foot


async def test_the_key_for_help_closes_it_again():
    async with dashboard(keymap=parsed('[app]\nhelp = "h"', tables())) as (app, pilot):
        before = app.screen
        await pilot.press("h")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("h")
        assert app.screen is before


def test_the_command_line_tells_of_a_bad_file_and_exits_with_2(tmp_path):
    place = tmp_path / "keys.toml"
    place.write_text('[app]\npauze = "p"\n')
    run = subprocess.run(
        [sys.executable, "-m", "shardscope", "keys"],
        cwd=ROOT,
        env={**os.environ, "SHARDSCOPE_KEYS": str(place)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert f"{place}: line 2: there is no action 'app.pauze'; the nearest is 'app.pause'" in run.stderr


def test_tables_name_every_screen():
    assert {"app", "view", *(name for name, _key in keys.SCREENS)} <= set(tables())
