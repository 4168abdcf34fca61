"""Snapshots by hand for tests of the dashboard: scenes of the script, changed where a test needs it."""

from msgspec.structs import replace

from runtime.layout import Layout
from tui import keys
from tui.demo import script
from tui.view.columns import MARK
from tui.view.line import text
from tui.view.options import Feed, Options
from tui.view.overview import overview

LOADING, STEADY, STRAGGLER, QUIET, RELAUNCH, FAILED = 4.0, 24.0, 45.0, 78.0, 113.0, 155.0
MOMENTS = (0.0, LOADING, STEADY, STRAGGLER, QUIET, RELAUNCH, FAILED)
FEED = Feed("scripted demo", 0.2)
KEYS = keys.OVERVIEW + keys.VIEW + keys.APP
UP_TO_8_RANKS = ("tp1", "tp2", "tp4", "tp8", "pp2", "pp4", "dp2", "ep4", "tp2pp2", "tp2pp2dp2", "ep2tp2pp2", "tp4pp2")


def scene(at=STEADY, layout="tp2pp2", emulated=False):
    return script(at, Layout.parse(layout), emulated)


def alone(snapshot, **changes):
    """The scene with its first deployment only, changed."""
    return replace(snapshot, deployments=(replace(snapshot.deployments[0], **changes),))


def ranks_changed(snapshot, change):
    """`change(rank)` for every rank of the only deployment."""
    return alone(snapshot, ranks=tuple(change(rank) for rank in snapshot.deployments[0].ranks))


def drawn(snapshot, columns=80, rows=24, feed=FEED, **options):
    """The lines of the whole overview as text, without the mark of the rank that keys go to."""
    frame = overview(snapshot, feed, Options(**options), KEYS, columns, rows)
    return [text(line).replace(MARK, " ") for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)]
