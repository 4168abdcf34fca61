"""Screen 5: tokens by layer and expert, the hottest experts, and a placement that would be evener."""

from __future__ import annotations

from dataclasses import replace

from telemetry.snapshot import ExpertsView
from tui import keys
from tui.screens.view import View
from tui.session import Session
from tui.view.experts import SORTS, Look, experts, members, moved, next_hottest
from tui.view.frame import Frame
from tui.view.heat import LEGEND
from tui.view.manual import Glossary
from tui.view.options import chosen
from tui.view.placement import rebalanced

_GLOSSARY: Glossary = (
    ("cells", f"tokens of one expert in one layer, {LEGEND}; dummies are not counted"),
    ("max", "the busiest expert's tokens over the mean of its layer"),
    ("balance", "mean over largest of the ep members' tokens in the layer: 1 is even; ! below 0.8; -- where one has all experts"),
    ("e1 54%", "member of the ep axis that owns the experts below, and its share of all tokens"),
    (
        "preview",
        "greedy: experts from the busiest on, each where the layers' busiest members grow least, or where it is; memory stays",
    ),
)


class ExpertsScreen(View):
    KEYS = keys.EXPERTS
    GLOSSARY = _GLOSSARY

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._look = Look()

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        return experts(snapshot, feed, self.session.options, self._look, self.usable_keys(), columns, rows)

    def action_move(self, down: int, right: int) -> None:
        if view := self._view():
            self._show(moved(view, self._look, down, right))

    def action_next_hottest(self) -> None:
        if view := self._view():
            self._show(next_hottest(view, self._look))

    def action_next_sort(self) -> None:
        self._show(replace(self._look, sort=SORTS[(SORTS.index(self._look.sort) + 1) % len(SORTS)]))

    def action_detail(self) -> None:
        self._show(replace(self._look, detail=not self._look.detail, asked=False, preview=None))

    def action_preview(self) -> None:
        """Of the tokens now; they go on, the preview stays as it is."""
        view = self._view()
        if self._look.asked or view is None:
            self._show(replace(self._look, asked=False, preview=None))
        else:
            self._show(replace(self._look, asked=True, preview=rebalanced(view.tokens, view.owners, members(view))))

    def action_close(self) -> None:
        self._show(replace(self._look, detail=False, asked=False, preview=None))

    def action_next_deployment(self, step: int) -> None:
        self._look = Look(sort=self._look.sort)
        super().action_next_deployment(step)

    def _view(self) -> ExpertsView | None:
        deployment = chosen(self.session.look()[0], self.session.options)
        view = deployment.experts if deployment else None
        return view if view and view.layers and view.owners else None

    def _show(self, look: Look) -> None:
        self._look = look
        self.redraw()
