"""The first screen: who it is, the verdict, ranks by stage, engine, events. Decides what stands where at any size."""

from __future__ import annotations

from collections.abc import Sequence

from telemetry.snapshot import DeploymentView, Snapshot
from tui.keys import Key, hint
from tui.view import panels
from tui.view.frame import Frame
from tui.view.grid import columns_fit, grid, grid_rows
from tui.view.line import Line, line
from tui.view.options import Feed, Options, chosen
from tui.view.screen import head_and_foot
from tui.view.table import table

_TALLEST_GRAPH = 6


def overview(snapshot: Snapshot | None, feed: Feed, options: Options, keys: Sequence[Key], columns: int, rows: int) -> Frame:
    """The whole screen, `columns` wide and made for `rows`; on a very small one the top is what stays."""
    columns = max(1, columns)
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, rows)
    room = max(0, rows - len(head) - len(foot))
    deployment = chosen(snapshot, options)
    if snapshot is None or deployment is None:
        return Frame(head, foot=foot).cropped(columns, rows)
    second = snapshot.time_ns // 1_000_000_000
    ranks: Sequence[Line]
    focus: tuple[int, int] | None = None
    if not deployment.ranks:
        ranks = [line(" no ranks yet", "dim")]
    elif shown_as_grid(deployment, options, columns, room):
        ranks, focus = grid(deployment, second, options, columns, _graph_rows(deployment, columns, room))
    else:
        titles, ranks, focus = table(deployment, second, options, columns, room - panels.SMALLEST - 2)
        if room > len(titles):
            head += titles
            room -= len(titles)
        ranks = ranks or [line(" no rank matches the filter" + hint(keys, "clear_filter", "; {} clears it"), "dim")]
    below = max(room - len(ranks), min(panels.SMALLEST, room // 2))
    lower = panels.panels(deployment, snapshot, columns, below)
    return Frame(head, ranks, lower, foot, focus).cropped(columns, rows)


def shown_as_grid(deployment: DeploymentView, options: Options, columns: int, room: int) -> bool:
    """As asked for; else the grid where all of it fits with the panels below."""
    if options.form != "auto":
        return options.form == "grid"
    return columns_fit(deployment, columns) and grid_rows(deployment, columns, 1) + panels.COMFORTABLE <= room


def _graph_rows(deployment: DeploymentView, columns: int, room: int) -> int:
    """Histories grow where there is room to spare."""
    spare = room - panels.COMFORTABLE
    return max([1, *(high for high in range(2, _TALLEST_GRAPH + 1) if grid_rows(deployment, columns, high) <= spare)])
