"""Screen 2: one rank."""

from __future__ import annotations

from tui import keys
from tui.screens.logs import LogsScreen
from tui.screens.view import View
from tui.view.frame import Frame
from tui.view.manual import RANKS
from tui.view.options import chosen, chosen_rank
from tui.view.rank import rank_detail


class RankScreen(View):
    KEYS = keys.RANK
    GLOSSARY = (
        *RANKS,
        ("compute", "█ time of a step on the device outside collectives"),
        ("tp, ep, pp", "a step's time in that axis' collectives: ▓ moving bytes, ▒ waiting for the last rank to arrive"),
        ("stage", "waiting for the previous stage's hidden states"),
        ("host", "nothing ran on the device while the replica had work"),
        ("others wait", "how long the others of the group waited for this rank beyond what it waited itself, a step"),
        ("of the time", "the same parts as shares of the time with work, between steps included"),
        ("SM, tensor, DRAM", "share of the time in which these units were active (GPM, Hopper and later); any: some kernel ran"),
        ("Xid, ECC", "the driver's last error code; memory errors that could not be corrected, and those that were"),
    )

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        deployment = chosen(snapshot, self.session.options)
        rank = chosen_rank(deployment, self.session.options) if deployment else None
        log = self.session.log(deployment.name, rank.info.rank) if deployment and rank else None
        lines = log.lines() if log else ()
        return rank_detail(snapshot, feed, self.session.options, self.usable_keys(), lines, columns, rows)

    def action_step_rank(self, step: int) -> None:
        """Around the end."""
        deployment = chosen(self.session.look()[0], self.session.options)
        rank = chosen_rank(deployment, self.session.options) if deployment else None
        if deployment is not None and rank is not None:
            numbers = [each.info.rank for each in deployment.ranks]
            self.set_options(rank=numbers[(numbers.index(rank.info.rank) + step) % len(numbers)])

    def action_open_log(self) -> None:
        self.app.push_screen(LogsScreen(self.session, self.session.options.rank))
