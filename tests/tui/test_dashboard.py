"""The dashboard driven by its keys, on the scripted source with a clock that stands where the test puts it."""

import pytest
from driving import dashboard, reached, redrawn
from scenes import FAILED, STEADY, STRAGGLER
from terminal import escapes, shown

from tui import keys
from tui.app import OVERLAYS, SCREENS
from tui.screens.help import HelpScreen
from tui.screens.overview import OverviewScreen
from tui.theme import THEMES
from tui.widgets.lines import Lines


@pytest.mark.parametrize("name", [*SCREENS, *OVERLAYS])
async def test_every_size_draws_and_a_resize_redraws(name):
    async with dashboard(STRAGGLER, "tp4pp2", (1, 1)) as (app, pilot):
        await app.run_action(f"app.overlay('{name}')" if name in OVERLAYS else f"app.switch_mode('{name}')")
        await reached(app, pilot, {**SCREENS, **OVERLAYS}[name])
        for size in ((2, 3), (300, 1), (300, 100), (19, 7), (80, 24), (1, 1), (200, 60)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.06)
            lines = shown(app)
            assert len(lines) == size[1]
            if size[0] >= 80 and size[1] >= 20:
                assert "qwen3-30b" in lines[0]
                assert "q quit" in lines[-1]


async def test_space_pauses_the_screen_and_not_the_source():
    async with dashboard() as (app, pilot):
        before = shown(app)
        await pilot.press("space")
        app.clock.now = FAILED
        paused = await redrawn(app, pilot)
        assert "PAUSED" in paused[0]
        assert paused[3:-1] == before[3:-1]
        assert "resume" in paused[-1]
        await pilot.press("space")
        assert "FAILED" in (await redrawn(app, pilot))[0]


async def test_v_goes_to_the_other_form_and_back():
    async with dashboard() as (app, pilot):
        assert any("stage 0" in line for line in shown(app))
        await pilot.press("v")
        assert any("ranks" in line and "by rank" in line for line in shown(app))
        await pilot.press("v")
        assert any("stage 0" in line for line in shown(app))


async def test_s_sorts_the_table():
    async with dashboard(STRAGGLER) as (app, pilot):
        await pilot.press("s")
        lines = shown(app)
        assert any("by util" in line for line in lines)
        first = lines[next(i for i, line in enumerate(lines) if line.startswith(" rank ")) + 1]
        assert first.startswith(" r3 ")


async def test_slash_filters_while_typing_and_escape_clears():
    async with dashboard(STRAGGLER) as (app, pilot):
        await pilot.press("slash", *"p1")
        lines = await redrawn(app, pilot)
        assert any("2 of 4" in line for line in lines)
        assert "enter keep" in lines[-1]
        assert not any(line.startswith(" r0 ") for line in lines)
        await pilot.press("enter")
        assert any("/ p1" in line for line in await redrawn(app, pilot))
        assert "q quit" in shown(app)[-1]
        await pilot.press("escape")
        assert any("4, by rank" in line for line in await redrawn(app, pilot))


async def test_letters_go_to_the_filter_and_not_to_the_keys():
    async with dashboard() as (app, pilot):
        await pilot.press("slash", *"qtvs")
        assert app.session.options.filter == "qtvs"
        assert app.theme == THEMES[0].name


async def test_u_changes_units():
    async with dashboard() as (app, pilot):
        assert any("125Gi/131Gi" in line for line in shown(app))
        await pilot.press("u")
        assert any("134G/141G" in line for line in await redrawn(app, pilot))


async def test_several_deployments():
    async with dashboard() as (app, pilot):
        await pilot.press("tab")
        assert (await redrawn(app, pilot))[0].startswith(" llama-1b")
        await pilot.press("shift+tab")
        assert (await redrawn(app, pilot))[0].startswith(" qwen3-30b")


async def test_a_click_chooses_a_deployment_and_a_key_of_the_footer():
    async with dashboard() as (app, pilot):
        await pilot.click("#head", offset=(shown(app)[1].index("llama"), 1))
        assert (await redrawn(app, pilot))[0].startswith(" llama-1b")
        await pilot.click("#foot", offset=(shown(app)[-1].index("pause"), 0))
        assert "PAUSED" in (await redrawn(app, pilot))[0]


async def test_t_goes_round_the_themes():
    async with dashboard() as (app, pilot):
        seen = []
        for _ in THEMES:
            seen.append(escapes(app))
            await pilot.press("t")
            await pilot.pause()
        assert len(set(seen)) == len(THEMES)
        assert app.theme == THEMES[0].name


async def test_question_mark_shows_every_key_and_closes():
    async with dashboard(size=(100, 100)) as (app, pilot):
        await pilot.press("question_mark")
        await pilot.pause(0.1)
        assert isinstance(app.screen, HelpScreen)
        page = "\n".join(shown(app))
        for key in (*keys.OVERVIEW, *keys.APP):
            assert key.help[:40] in page
        await pilot.press("escape")
        assert isinstance(app.screen, OverviewScreen)


async def test_the_palette_knows_every_command():
    async with dashboard() as (app, pilot):
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert "Pause (space)" in titles
        assert len(titles) == len(set(titles))
        await pilot.press("ctrl+p")
        await pilot.pause()
        await pilot.press(*"units", "enter")
        await pilot.pause(0.3)
        assert app.session.options.units == "GB"


async def test_ctrl_s_saves_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with dashboard() as (_, pilot):
        await pilot.press("ctrl+s")
        await pilot.pause(0.3)
        [picture] = tmp_path.glob("*.svg")
        assert "qwen3" in picture.read_text()


async def test_1_shows_the_overview_and_q_leaves():
    async with dashboard() as (app, pilot):
        await pilot.press("1")
        await pilot.pause()
        assert isinstance(app.screen, OverviewScreen)
        await pilot.press("q")
        await pilot.pause()
        assert not app.is_running


async def test_64_ranks_scroll_under_a_head_that_stays():
    async with dashboard(STEADY, "tp8pp8", (80, 24)) as (app, pilot):
        top = shown(app)
        assert any(line.startswith("▸r0 ") for line in top)
        await pilot.press("pagedown", "pagedown", "j", "k")
        await pilot.pause(0.05)
        lower = shown(app)
        assert any(line.startswith("▸r20 ") for line in lower)
        assert lower[:5] == top[:5]
        assert lower[-6:] == top[-6:]


async def test_only_what_changed_is_drawn_again(monkeypatch):
    async with dashboard() as (app, pilot):
        await pilot.pause(0.3)
        drawn = []
        strip = Lines._strip
        monkeypatch.setattr(Lines, "_strip", lambda self, y: drawn.append((self.id, y)) or strip(self, y))
        await redrawn(app, pilot)
        assert set(drawn) == set()
        app.clock.now += 0.1
        await redrawn(app, pilot)
        assert set(drawn) == {("head", 0)}


async def test_selected_text_can_be_copied():
    async with dashboard() as (app, pilot):
        await pilot.mouse_down("#head", offset=(1, 0))
        await pilot.hover("#head", offset=(9, 0))
        await pilot.mouse_up("#head", offset=(9, 0))
        await pilot.pause()
        assert app.screen.get_selected_text() == "qwen3-30b"


async def test_readonly_is_said():
    async with dashboard(readonly=True) as (app, _):
        assert "read-only" in shown(app)[0]
