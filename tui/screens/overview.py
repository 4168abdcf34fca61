"""Screen 1: ranks by stage, engine, events of one deployment."""

from __future__ import annotations

from tui import keys
from tui.screens.filtering import FilteredView
from tui.view.frame import Frame
from tui.view.manual import ENGINE, RANKS
from tui.view.options import chosen
from tui.view.overview import overview, shown_as_grid
from tui.view.ranks import FILTER_HELP, SORTS, moved


class OverviewScreen(FilteredView):
    KEYS = keys.OVERVIEW
    GLOSSARY = (*RANKS, *ENGINE)
    FILTER_HELP = FILTER_HELP

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        return overview(snapshot, feed, self.session.options, self.usable_keys(), columns, rows - self.typing)

    def set_filter(self, text: str) -> None:
        self.session.set(filter=text)

    def action_filter(self) -> None:
        self.session.set(form="table")
        super().action_filter()

    def action_next_form(self) -> None:
        """To the other form than the one on the screen, whichever chose it."""
        self.set_options(form="table" if self._in_grid() else "grid")

    def _in_grid(self) -> bool:
        snapshot, _ = self.session.look()
        deployment = chosen(snapshot, self.session.options)
        room = self.size.height - self._parts["head"].size.height - self._parts["foot"].size.height
        return deployment is not None and shown_as_grid(deployment, self.session.options, self.size.width - 1, room)

    def action_next_sort(self) -> None:
        now = SORTS.index(self.session.options.sort)
        self.set_options(sort=SORTS[(now + 1) % len(SORTS)], form="table")

    def action_mark(self, step: int) -> None:
        self._mark(step, False)

    def action_mark_row(self, step: int) -> None:
        self._mark(step, self._in_grid())

    def _mark(self, step: int, by_stage: bool) -> None:
        deployment = chosen(self.session.look()[0], self.session.options)
        if deployment is not None:
            self.set_options(rank=moved(deployment, self.session.options, step, by_stage))

    async def action_open_rank(self, rank: int | None = None) -> None:
        """The rank screen, of the marked rank or of the one that was clicked on."""
        if rank is not None:
            self.session.set(rank=rank)
        await self.run_action("app.switch_mode('rank')")
