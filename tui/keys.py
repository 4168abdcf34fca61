"""Every key, once: bindings, footer, palette, help and the user's key map are all made from these tables.

Nothing that tmux or a shell takes: no ctrl+a, ctrl+b, ctrl+enter. A screen's own table wins over `VIEW` and `APP`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

STEER, WRITE = "steer", "write"  # what a key may need: a daemon to steer, or at least not to be read-only


class Key(NamedTuple):
    """`drop`: when the footer is too narrow the highest goes first; `None` is never in the footer."""

    key: str  # in Textual's names, several separated by commas
    shown: str
    action: str
    label: str
    help: str
    drop: int | None
    needs: str = ""  # STEER, WRITE
    off: str = ""  # why it cannot be used now
    here: bool = False  # it leads to the screen that is shown

    @property
    def method(self) -> str:
        """What its action is called: `stop` of `app.stop`."""
        return self.action.partition("(")[0].rpartition(".")[2]

    @property
    def screen(self) -> bool:
        """Whether it leads to a screen of its own."""
        return self.method == "switch_mode" and self.key.isdigit()

    def named(self, table: str) -> str:
        """Its name in the user's key map: `overview.sort`, `app.show-deploy`."""
        words = re.sub("[^a-z0-9]+", "-", self.label.lower()).strip("-")
        return f"{table}.{'show-' if self.screen else ''}{words}"


def hint(keys: Iterable[Key], method: str, words: str) -> str:
    """`words` with the key in force for an action where `{}` stands; nothing where there is no such key or it is off."""
    key = next((key for key in keys if key.method == method and not key.off), None)
    return words.replace("{}", key.shown.split()[0], 1) if key is not None else ""


SCREENS = (  # a number key a screen; `name` is its mode
    ("overview", Key("1", "1", "app.switch_mode('overview')", "Overview", "ranks, engine and events of one deployment", 4)),
    ("rank", Key("2", "2", "app.switch_mode('rank')", "Rank", "one rank: where its step goes, memory, device, log", 4)),
    (
        "pipeline",
        Key("3", "3", "app.switch_mode('pipeline')", "Pipeline", "what each stage does when: micro-batches, bubbles", 4),
    ),
    ("collectives", Key("4", "4", "app.switch_mode('collectives')", "Collectives", "by op, size: speed, waits, who is late", 4)),
    ("experts", Key("5", "5", "app.switch_mode('experts')", "Experts", "tokens by layer and expert, how even they are", 4)),
    ("deploy", Key("6", "6", "app.switch_mode('deploy')", "Deploy", "a new deployment, or a change of this one", 4)),
    ("stress", Key("7", "7", "app.switch_mode('stress')", "Stress", "a load on this deployment, and what its clients see", 4)),
    ("profiles", Key("8", "8", "app.switch_mode('profiles')", "Profiles", "recordings: replay, compare, export", 4)),
    ("plan", Key("9", "9", "app.switch_mode('plan')", "Plan", "every layout, predicted, and which to take", 4)),
)

APP = (
    *(key for _name, key in SCREENS),
    Key("space", "space", "app.pause", "pause", "freeze what is shown; collection goes on", 1),
    Key("l", "l", "app.overlay('logs')", "logs", "what the ranks and the engine wrote; the same key closes", 5),
    Key("a", "a", "app.overlay('events')", "events", "everything that happened; the same key closes", 6),
    Key("d", "d", "app.deploy", "deploy", "to Deploy, with the remedy of the verdict filled in", 7, WRITE),
    Key("x", "x", "app.stress", "stress", "to Stress, load for this deployment", 10, WRITE),
    Key("r", "r", "app.record", "record", "have the daemon record this deployment, or end its recording", 7, STEER),
    Key("K", "K", "app.stop", "stop", "stop this deployment; asks for its name first", 10, STEER),
    Key("z", "z", "app.maximise", "maximise", "all the room for the middle of the screen, and back", 11),
    Key("c", "c", "app.copy", "copy", "copy the screen's text to the clipboard (OSC 52; in tmux: set-clipboard on)", 11),
    Key("t", "t", "app.next_theme", "theme", "next theme: dark, light, colour-blind", 8),
    Key("u", "u", "app.next_units", "units", "GiB (1024) or GB (1000)", 9),
    Key("ctrl+s", "^s", "app.save_picture", "SVG", "save the screen as a picture in the working directory", 12),
    Key("ctrl+p", "^p", "app.command_palette", "palette", "all commands by name", 11),
    Key("question_mark", "?", "app.help", "help", "this page", 0),
    Key("q", "q", "app.quit", "quit", "leave; daemon and ranks go on (ctrl+c does the same)", 0),
)

VIEW = (  # what every screen can
    Key("tab", "tab", "screen.next_deployment(1)", "next deployment", "show the next deployment", None),
    Key("shift+tab", "⇧tab", "screen.next_deployment(-1)", "previous deployment", "show the previous one", None),
    Key("down,j", "down j", "screen.scroll(1)", "down", "scroll", None),
    Key("up,k", "up k", "screen.scroll(-1)", "up", "scroll", None),
    Key("pagedown", "pgdn", "screen.scroll(10)", "page down", "scroll", None),
    Key("pageup", "pgup", "screen.scroll(-10)", "page up", "scroll", None),
    Key("home", "home", "screen.scroll(-1000000)", "top", "scroll", None),
    Key("end", "end", "screen.scroll(1000000)", "bottom", "scroll", None),
    Key("minus", "-", "screen.redraw_oftener(-1)", "slower", "draw half as often, down to once in 4 s: for a slow line", None),
    Key("plus,equals_sign", "+", "screen.redraw_oftener(1)", "faster", "draw twice as often, up to 4 times a second", None),
)

OVERVIEW = (
    Key("enter", "enter", "screen.open_rank", "rank", "to the marked rank", 2),
    Key("left", "left", "screen.mark(-1)", "previous rank", "mark the previous rank; a click opens it", None),
    Key("right", "right", "screen.mark(1)", "next rank", "mark the next rank", None),
    Key("down,j", "down j", "screen.mark_row(1)", "rank below", "mark the rank below", None),
    Key("up,k", "up k", "screen.mark_row(-1)", "rank above", "mark the rank above", None),
    Key("pagedown", "pgdn", "screen.mark_row(10)", "page below", "mark the tenth rank below", None),
    Key("pageup", "pgup", "screen.mark_row(-10)", "page above", "mark the tenth rank above", None),
    Key("home", "home", "screen.mark(-1000000)", "first rank", "mark the first rank", None),
    Key("end", "end", "screen.mark(1000000)", "last rank", "mark the last rank", None),
    Key("v", "v", "screen.next_form", "table/grid", "ranks by place in the layout, or one a line", 3),
    Key("slash", "/", "screen.filter", "filter", "show only the ranks that match, one a line", 2),
    Key("s", "s", "screen.next_sort", "sort", "next figure to sort the ranks by, greatest first", 5),
    Key("escape", "esc", "screen.clear_filter", "clear filter", "show all ranks again", None),
)

RANK = (
    Key("escape", "esc", "app.switch_mode('overview')", "back", "to the overview", 2),
    Key("left_square_bracket,left", "[", "screen.step_rank(-1)", "previous rank", "the previous rank", None),
    Key("right_square_bracket,right", "[ ]", "screen.step_rank(1)", "rank", "the next rank", 2),
    Key("l", "l", "screen.open_log", "log", "what this rank wrote; the same key closes", 3),
)

PIPELINE = (
    Key("left", "left", "screen.scroll_time(-1)", "earlier", "scroll back in time; freezes the screen", None),
    Key("right", "right", "screen.scroll_time(1)", "later", "scroll on in time", None),
    Key("left_square_bracket", "[", "screen.step(-1)", "previous step", "mark the step before; freezes the screen", None),
    Key("right_square_bracket", "[ ]", "screen.step(1)", "step", "mark the next step of the row", 2),
    Key("plus,equals_sign", "+", "screen.zoom(-1)", "nearer", "fewer milliseconds", None),
    Key("minus", "+ -", "screen.zoom(1)", "zoom", "more milliseconds", 2),
    Key("down,j", "down j", "screen.row(1)", "row below", "mark a step of the row below", None),
    Key("up,k", "up k", "screen.row(-1)", "row above", "mark a step of the row above", None),
    Key("v", "v", "screen.next_form", "stages/ranks", "a row a stage, or a row a rank", 3),
    Key("e", "e", "screen.export", "export", "these seconds' steps as a Chrome trace (Perfetto), into the working directory", 5),
    Key("n", "n", "screen.next_group", "next group", "the next replica or ep member, where there are several", 6),
)

FORM = (  # every screen with a form
    Key("down,j", "down j", "screen.move(1)", "field below", "mark the field below", None),
    Key("up,k", "up k", "screen.move(-1)", "field above", "mark the field above", None),
    Key("left", "←", "screen.turn(-1)", "less", "the marked field's value before: half as much, the previous choice", None),
    Key("right", "← →", "screen.turn(1)", "value", "the marked field's next value: twice as much, the next choice", 1),
    Key("enter", "enter", "screen.type", "type", "type the marked field's value; enter keeps it, esc forgets it", 1),
)

DEPLOY = (
    *FORM,
    Key("d", "d", "screen.apply", "do it", "asks first, then deploys or changes", 1, STEER),
    Key("n", "n", "screen.new_or_change", "new/change", "a new deployment, or a change of the running one", 3),
    Key("f", "f", "screen.fix", "fix", "take what would make it possible, or make it fit", 3),
    Key("R", "R", "screen.reset", "reset", "forget what was filled in", 5),
    Key("escape", "esc", "screen.close", "close", "forget how the last order ended", None),
)

PLAN = (
    Key("left_square_bracket", "[", "screen.move(-1)", "previous field", "mark the previous field of the question", None),
    Key("right_square_bracket", "[ ]", "screen.move(1)", "field", "mark the next field of the question", 2),
    Key("left", "←", "screen.turn(-1)", "less", "the marked field's value before: half as much, the previous choice", None),
    Key("right", "← →", "screen.turn(1)", "value", "the marked field's next value: twice as much, the next choice", 1),
    Key("e", "e", "screen.type", "type", "type the marked field's value; enter keeps it, esc forgets it", 2),
    Key("down,j", "down j", "screen.row(1)", "layout below", "mark the layout below", None),
    Key("up,k", "up k", "screen.row(-1)", "layout above", "mark the layout above", None),
    Key("enter", "enter", "screen.take", "deploy it", "take the marked layout to Deploy", 1),
    Key("s", "s", "screen.next_sort", "sort", "next figure to sort the layouts by, best first", 4),
    Key("v", "v", "screen.next_panel", "panel", "step by parts, plot, use cases, changes, predicted and measured", 2),
)

TYPING = (  # while a field is typed every other key is text
    Key("enter", "enter", "screen.keep_field", "keep", "", 0),
    Key("tab", "tab", "screen.complete_path", "complete", "", 1),
    Key("escape", "esc", "screen.leave_field", "forget", "", 0),
)

REPLAY = (  # under every screen of a replay, and before its own
    Key("space", "space", "screen.replay_toggle", "play/pause", "let the recording play, or stand still", 1),
    Key("L", "L", "screen.replay_leave", "leave", "back from the replay to what was shown before", 2),
    Key("comma", ",", "screen.replay_skip(-10)", "10 s back", "ten seconds back", None),
    Key("full_stop", ", .", "screen.replay_skip(10)", "10 s", "ten seconds on", 3),
    Key("g", "g", "screen.replay_go_to", "go to", "to a time that you type, MM:SS; a click on the bar goes there, too", 3),
    Key("m", "m", "screen.replay_mark", "mark", "mark this moment; the same again takes the mark away", 4),
    Key("less_than_sign", "<", "screen.replay_jump(-1)", "previous event", "to the event or mark before", None),
    Key("greater_than_sign", "< >", "screen.replay_jump(1)", "event", "to the next event or mark", 4),
    Key("home", "home", "screen.replay_edge(False)", "beginning", "to the beginning", None),
    Key("end", "end", "screen.replay_edge(True)", "end", "to the end", None),
)

REPLAY_ELSEWHERE = (  # on screens that have no use of their own for the key
    Key("left_square_bracket", "[", "screen.replay_step(-1)", "frame back", "a quarter of a second back, and stand still", None),
    Key("right_square_bracket", "[ ]", "screen.replay_step(1)", "frame", "a quarter of a second on, and stand still", 5),
    Key("minus", "-", "screen.replay_faster(-1)", "slower", "half as fast, down to 0.25x", None),
    Key("plus,equals_sign", "+ -", "screen.replay_faster(1)", "speed", "twice as fast, up to 16x", 3),
)

STRESS = (
    *FORM,
    Key("x", "x", "screen.start", "start", "begin this load; asks first when others are at work", 0, STEER),
    Key("R", "R", "screen.reset", "reset", "the fields as they began", 5),
    Key("K", "K", "screen.stop_load", "stop load", "end the load, keep what was measured; with none: stop the deployment", 0),
    Key("w", "w", "screen.next_window", "window", "figures of the last 10 s, 60 s, or the whole run", 1),
    Key("n", "n", "screen.new", "another", "back to the form, for another load", 0),
)
STRESS_WHILE = {  # what each phase of the screen offers of them
    "asking": ("start", "move", "type", "turn", "reset"),
    "running": ("stop_load", "next_window"),
    "over": ("new",),
}

PROFILES = (
    Key("down,j", "down j", "screen.move(1)", "recording below", "mark the recording below", None),
    Key("up,k", "up k", "screen.move(-1)", "recording above", "mark the recording above", None),
    Key("pagedown", "pgdn", "screen.move(10)", "page below", "ten below", None),
    Key("pageup", "pgup", "screen.move(-10)", "page above", "ten above", None),
    Key("home", "home", "screen.move(-1000000)", "first", "the first recording", None),
    Key("end", "end", "screen.move(1000000)", "last", "the last recording", None),
    Key("enter", "enter", "screen.open", "replay", "open the marked recording on all screens", 1),
    Key("space", "space", "screen.mark", "mark A, B", "mark two recordings to compare: A, then B", 1),
    Key("v", "v", "screen.compare", "compare", "compare B with A: measures, with intervals, and what is noise", 2),
    Key("b", "b", "screen.realign", "by time/tokens", "the courses of A and B by time, or by the tokens that were generated", 1),
    Key("f", "f", "screen.everything", "all/news", "all measures, or only those beyond noise", 1),
    Key("e", "e", "screen.export", "export", "as a Chrome trace (Perfetto), CSV or Parquet, into the working directory", 3),
    Key("o", "o", "screen.type_path", "open file", "add a recording or a directory that you type to the list", 3),
    Key("escape", "esc", "screen.back", "back", "from the comparison to the list; out of a replay", 2),
)
PROFILES_LISTED = ("move", "open", "mark", "compare", "export", "type_path", "back")  # what the list offers of them
PROFILES_COMPARED = ("move", "realign", "everything", "back")

COLLECTIVES = (
    Key("s", "s", "screen.next_sort", "sort", "next figure to sort by, greatest first", 3),
    Key("slash", "/", "screen.filter", "filter", "show only the collectives that match", 2),
    Key("escape", "esc", "screen.clear_filter", "clear filter", "show all again", None),
)

EXPERTS = (
    Key("left", "left", "screen.move(0, -1)", "expert before", "mark the expert before", None),
    Key("right", "right", "screen.move(0, 1)", "next expert", "mark the next expert", None),
    Key("down,j", "down j", "screen.move(1, 0)", "layer below", "mark the layer below", None),
    Key("up,k", "up k", "screen.move(-1, 0)", "layer above", "mark the layer above", None),
    Key("pagedown", "pgdn", "screen.move(10, 0)", "10 layers", "ten layers down", None),
    Key("pageup", "pgup", "screen.move(-10, 0)", "10 layers up", "ten layers up", None),
    Key("n", "n", "screen.next_hottest", "hottest", "mark the next of the hottest experts", 2),
    Key("enter", "enter", "screen.detail", "expert", "the marked expert over all layers, and back", 2),
    Key("b", "b", "screen.preview", "rebalance", "a placement that would be evener; nothing is moved", 2),
    Key("s", "s", "screen.next_sort", "sort", "layers by number, or the least even first", 4),
    Key("escape", "esc", "screen.close", "close", "close what stands below", None),
)

LOGS = (
    Key("escape", "esc", "app.back", "close", "back to the screen", 1),
    Key("left_square_bracket,left", "[", "screen.step_rank(-1)", "previous log", "the previous rank's log, or that of all", None),
    Key("right_square_bracket,right", "[ ]", "screen.step_rank(1)", "log", "the next rank's log, or that of all", 2),
    Key("slash", "/", "screen.filter", "filter", "only lines that hold this text, capitals or not", 2),
    Key("end,f", "end", "screen.scroll(1000000)", "newest", "the newest line, and stay there; scrolling up lets go", 3),
)

EVENTS = (
    Key("escape", "esc", "app.back", "close", "back to the screen", 1),
    Key("s", "s", "screen.next_severity", "severity", "all, warnings and errors, errors", 2),
    Key("slash", "/", "screen.filter", "filter", "only events that hold this text, capitals or not", 2),
    Key("o", "o", "screen.all_deployments", "whose", "of this deployment, or of all", 3),
)

FILTERING = (  # while the filter is typed every other key is text
    Key("enter", "enter", "screen.keep_filter", "keep", "", 0),
    Key("escape", "esc", "screen.clear_filter", "clear", "", 0),
)
