"""The head and the foot that every screen has, whatever stands between them."""

from __future__ import annotations

from collections.abc import Sequence

from telemetry.snapshot import Snapshot
from tui.keys import Key, hint
from tui.view.heading import identity, tabs, verdict_lines
from tui.view.line import Line, crop
from tui.view.manual import footer
from tui.view.options import Feed, Options
from tui.view.verdict import Verdict, verdict

_FOOT_FROM = 6  # rows


def head_and_foot(
    snapshot: Snapshot | None,
    feed: Feed,
    options: Options,
    keys: Sequence[Key],
    columns: int,
    rows: int,
    said: Verdict | None = None,
) -> tuple[list[Line], list[Line]]:
    """Identity, other deployments, verdict; keys. A maximised screen keeps the first line, and the verdict's first.

    `said`: the verdict of a screen whose subject is not how the deployment does.
    """
    head = [identity(snapshot, feed, options, columns)]
    if not options.maximised:
        head += tabs(snapshot, options, hint(keys, "next_deployment", "{}"), columns)
    foot = [crop(footer(tuple(keys), columns, feed.paused_s is not None), columns)] if rows >= _FOOT_FROM else []
    room = max(1, rows - len(head) - len(foot))
    limit = 1 if options.maximised else max(1, min(3, room // 4))
    found = said or verdict(snapshot, feed, options)
    return head + verdict_lines(found, columns, limit, hint(keys, "deploy", "{}")), foot
