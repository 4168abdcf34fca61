"""Over any screen: the log of the marked rank or of the whole deployment, as it grows."""

from __future__ import annotations

from dataclasses import replace

from tui import keys
from tui.screens.filtering import FilteredView
from tui.session import Session
from tui.view.frame import Frame
from tui.view.line import clean, line, rule
from tui.view.log import log_lines
from tui.view.options import chosen
from tui.view.screen import head_and_foot


class LogsScreen(FilteredView):
    KEYS = keys.LOGS
    GLOSSARY = (
        ("order", "lines of several writers stand in the order in which they were seen; what was written before, file by file"),
        ("files", "logs/NAME/rank-N.log and engine.log in the daemon's run directory; shardscope logs NAME prints them whole"),
    )
    FILTER_HELP = "text, for example nccl or rank-3"

    def __init__(self, session: Session, rank: int | None = None) -> None:
        """`rank`: whose; `None`: the whole deployment's."""
        super().__init__(session)
        self._rank = rank
        self._wanted = ""
        self._end = 0  # where the newest line was in sight

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        rows -= self.typing
        brief = replace(self.session.options, maximised=True)
        head, foot = head_and_foot(snapshot, feed, brief, self.usable_keys(), columns, rows)
        deployment = chosen(snapshot, self.session.options)
        log = self.session.log(deployment.name, self._rank) if deployment else None
        if deployment is None or log is None:
            why = "nothing is deployed" if deployment is None else f"the {feed.source} has no logs, only a daemon has"
            head.append(rule(line("log", "title"), (), columns))
            return Frame(head, [line(f" {why}", "dim")], foot=foot).cropped(columns, rows)
        body = log_lines(log.lines(), self._rank is None, self._wanted, columns)
        following = self._following()
        who = "all" if self._rank is None else f"rank {self._rank}"
        title = f"log of {clean(deployment.name)}, {who}" + (f"  / {self._wanted}" if self._wanted else "")
        state = line("at the newest line", "dim") if following else line("scrolled back from the newest line", "accent")
        head.append(rule(line(title, "title"), state, columns))
        focus = (len(body) - 1, len(body)) if body and following else None
        body = body or [line(" no line holds that" if self._wanted else " nothing was written yet", "dim")]
        return Frame(head, body, foot=foot, focus=focus).cropped(columns, rows)

    def _following(self) -> bool:
        """Whether nobody scrolled up since the newest line was in sight."""
        body = self._parts["body"]
        following = body.scroll_offset.y >= self._end
        self._end = body.scroll_offset.y if following else int(body.max_scroll_y)
        return following

    def set_filter(self, text: str) -> None:
        self._wanted = text

    def action_step_rank(self, step: int) -> None:
        """Through all, rank 0, rank 1, and around."""
        deployment = chosen(self.session.look()[0], self.session.options)
        if deployment is not None:
            places = [None, *(rank.info.rank for rank in deployment.ranks)]
            here = places.index(self._rank) if self._rank in places else 0
            self._rank = places[(here + step) % len(places)]
            self.redraw()
