"""Over any screen: everything that happened, newest first."""

from __future__ import annotations

from dataclasses import replace

from tui import keys
from tui.screens.filtering import FilteredView
from tui.session import Session
from tui.view.events import SEVERITIES, event_list, matching
from tui.view.frame import Frame
from tui.view.line import line, rule
from tui.view.options import chosen
from tui.view.screen import head_and_foot


class EventsScreen(FilteredView):
    KEYS = keys.EVENTS
    GLOSSARY = (
        ("generation", "of the deployment's ranks: counts its launches"),
        ("kept", "the daemon keeps the newest 200 of all deployments; a recording has all"),
    )
    FILTER_HELP = "text, for example straggler or r3"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._severity, self._wanted, self._all = SEVERITIES[0], "", False

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        rows -= self.typing
        brief = replace(self.session.options, maximised=True)
        head, foot = head_and_foot(snapshot, feed, brief, self.usable_keys(), columns, rows)
        deployment = chosen(snapshot, self.session.options)
        if snapshot is None:
            return Frame(head, foot=foot).cropped(columns, rows)
        whose = self._all or deployment is None
        name = "" if deployment is None or self._all else deployment.name
        events = matching(snapshot.events, name, self._severity, self._wanted)
        title = f"events of {name or 'all deployments'}" + (f"  / {self._wanted}" if self._wanted else "")
        head.append(rule(line(title, "title"), line(f"{self._severity}: {len(events)}", "dim"), columns))
        body = event_list(events, snapshot.time_ns, whose, columns) or [line(" nothing of that kind happened", "dim")]
        return Frame(head, body, foot=foot).cropped(columns, rows)

    def set_filter(self, text: str) -> None:
        self._wanted = text

    def action_next_severity(self) -> None:
        self._severity = SEVERITIES[(SEVERITIES.index(self._severity) + 1) % len(SEVERITIES)]
        self.redraw()

    def action_all_deployments(self) -> None:
        self._all = not self._all
        self.redraw()
