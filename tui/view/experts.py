"""Experts: who takes the tokens of each layer, how even that is, and which placement would be evener."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from telemetry.formulas import balancedness
from telemetry.snapshot import DeploymentView, ExpertsView, Snapshot
from tui.keys import Key, hint
from tui.view.bars import Share, gauge, history
from tui.view.columns import MARK
from tui.view.figures import UNAVAILABLE, percent, short
from tui.view.frame import Frame
from tui.view.heat import LEGEND, Board, board, cells, owner_line, tick_line
from tui.view.line import BLANK, Line, Part, Span, fit, keep, line, rule
from tui.view.options import Feed, Options, chosen
from tui.view.placement import Placement, imbalance, member_loads
from tui.view.screen import head_and_foot
from tui.view.wrap import wrapped

SORTS = ("layer", "max/mean", "balance")
UNEVEN = 0.8  # balancedness below which a layer's members are marked
_LABEL = 6  # columns of a layer's name
_FIGURES = 16  # columns of its figures
_BAR = 40
_HOTTEST = 12


class Cell(NamedTuple):
    """`ratio`: its tokens over the mean of its layer."""

    layer: int
    expert: int
    ratio: float


@dataclass(frozen=True)
class Look:
    """Where the user looks. `layer`, `expert`: the marked ones, by the model's numbers."""

    layer: int = -1  # the first
    expert: int = 0
    sort: str = SORTS[0]
    detail: bool = False
    preview: Placement | None = None
    asked: bool = False  # whether a preview was asked for; `preview` is None where nothing is better


def hottest(view: ExpertsView, count: int) -> list[Cell]:
    """The experts furthest above their layer's mean, each expert once, in the layer where it is hottest."""
    shares = [(layer, _ratios(row)) for layer, row in _with_tokens(view)]
    if not shares:
        return []
    best = [max(column) for column in zip(*(row for _, row in shares), strict=True)]
    found = sorted(range(len(best)), key=lambda expert: (-best[expert], expert))[:count]
    return [Cell(next(layer for layer, row in shares if row[expert] == best[expert]), expert, best[expert]) for expert in found]


def _ratios(row: Sequence[int]) -> list[float]:
    mean = sum(row) / len(row)
    return [tokens / mean for tokens in row]


def _with_tokens(view: ExpertsView) -> Iterator[tuple[int, tuple[int, ...]]]:
    return ((layer, row) for layer, row in zip(view.layers, view.tokens, strict=True) if sum(row))


def members(view: ExpertsView) -> int:
    return max(view.owners, default=0) + 1


def max_over_mean(row: Sequence[int]) -> float | None:
    return max(row) * len(row) / sum(row) if sum(row) else None


def balances(view: ExpertsView) -> list[float | None]:
    """Of the ep members in each layer, mean over largest; `None` where one has all experts, or none took a token."""
    count = members(view)
    return [balancedness(loads) if count > 1 else None for loads in member_loads(view.tokens, view.owners, count)]


def ordered(view: ExpertsView, sort: str) -> list[int]:
    """Places of the layers: by number, or the least even first."""
    places = list(range(len(view.layers)))
    if sort == "max/mean":
        return sorted(places, key=lambda i: (-(max_over_mean(view.tokens[i]) or 0.0), i))
    if sort == "balance":
        even = balances(view)
        return sorted(places, key=lambda i: (2.0 if even[i] is None else even[i], i))
    return places


def moved(view: ExpertsView, look: Look, down: int, right: int) -> Look:
    """Another cell marked; at the edges it stays."""
    order = ordered(view, look.sort)
    shape = board(view.owners, 0)
    if not order or not shape.order:
        return look
    layers = [view.layers[i] for i in order]
    row = layers.index(look.layer) if look.layer in layers else 0
    column = shape.order.index(look.expert) if look.expert in shape.order else 0
    row, column = (max(0, min(last, at)) for at, last in ((row + down, len(layers) - 1), (column + right, len(shape.order) - 1)))
    return replace(look, layer=layers[row], expert=shape.order[column])


def next_hottest(view: ExpertsView, look: Look, count: int = 8) -> Look:
    """The next of the hottest experts marked, around the end."""
    cells_ = hottest(view, count)
    if not cells_:
        return look
    here = next((i for i, cell in enumerate(cells_) if (cell.layer, cell.expert) == (look.layer, look.expert)), -1)
    there = cells_[(here + 1) % len(cells_)]
    return replace(look, layer=there.layer, expert=there.expert)


def experts(
    snapshot: Snapshot | None, feed: Feed, options: Options, look: Look, keys: Sequence[Key], columns: int, rows: int
) -> Frame:
    """The whole screen."""
    columns = max(1, columns)
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, rows)
    deployment = chosen(snapshot, options)
    if snapshot is None or deployment is None:
        return Frame(head, foot=foot).cropped(columns, rows)
    view = deployment.experts
    if view is None or not view.layers or not view.owners:
        head.append(rule(line("experts", "title"), BLANK, columns))
        words = f"no experts to show: the model is dense, or none of them took a token in the last {snapshot.window_s:.0f} s"
        return Frame(head, [line(f" {each}", "dim") for each in wrapped(words, columns - 1, 3)], foot=foot).cropped(columns, rows)
    look = moved(view, look, 0, 0)
    figures = _FIGURES if columns >= 50 else 0
    room = max(0, columns - _LABEL - figures)
    shape = board(view.owners, room)
    offset = shape.offset(look.expert, room)
    closes = hint(keys, "preview" if look.asked else "detail", "{} closes")
    lower = _lower(deployment, view, look, closes, columns, rows - len(head) - len(foot) - 3)
    order = ordered(view, look.sort)
    head += [
        _title(view, look, shape, room, snapshot.window_s, columns),
        _beside(owner_line(shape, _owner_names(view), offset, room), "", figures, room),
        _beside(tick_line(shape, look.expert, offset, room), " max balance " if figures else "", figures, room),
    ]
    even = balances(view)
    body = [_layer(view, i, even[i], shape, offset, room, figures, look) for i in order]
    at = next(y for y, i in enumerate(order) if view.layers[i] == look.layer)
    return Frame(head, body, lower, foot, (at, at + 1)).cropped(columns, rows)


def _title(view: ExpertsView, look: Look, shape: Board, room: int, window_s: float, columns: int) -> Line:
    left = keep(
        [
            Part(0, line("experts", "title")),
            Part(1, line(f"{len(view.layers)} layers x {len(view.owners)}")),
            Part(2, line(LEGEND, "dim")),
        ],
        columns - 32,
    )
    part = "arrows scroll, " if shape.width > room else ""
    return rule(left, line(f"{part}last {window_s:.0f} s, by {look.sort}", "dim"), columns)


def _owner_names(view: ExpertsView) -> list[str]:
    """`e1 54% of tokens`, for each member of the ep axis."""
    count = members(view)
    if count == 1:
        return [""]
    sums = [sum(column) for column in zip(*member_loads(view.tokens, view.owners, count), strict=True)]
    whole = sum(sums)
    return [f"e{member} {percent(100 * load / whole if whole else None)}" for member, load in enumerate(sums)]


def _beside(middle: Line, title: str, figures: int, room: int) -> Line:
    return (Span(" " * _LABEL), *fit(middle, room), *fit(line(title, "dim"), figures))


def _layer(
    view: ExpertsView, place: int, even: float | None, shape: Board, offset: int, room: int, figures: int, look: Look
) -> Line:
    layer, row = view.layers[place], view.tokens[place]
    here = layer == look.layer
    name = fit((Span(MARK if here else " ", "accent"), Span(f"L{layer}", "title" if here else "")), _LABEL)
    most = max_over_mean(row)
    uneven = even is not None and even < UNEVEN
    said = f" {UNAVAILABLE if most is None else f'{most:.1f}':>4} {UNAVAILABLE if even is None else f'{even:.2f}':>6}"
    end = (Span(said), Span(" !" if uneven else "", "warn")) if figures else ()
    return (*name, *fit(cells(shape, row, offset, room), room), *fit(end, figures))


def _lower(deployment: DeploymentView, view: ExpertsView, look: Look, closes: str, columns: int, room: int) -> list[Line]:
    """What is said below the heat takes a third of the room at most, and nothing where there is little."""
    most = max(0, min(room // 2, 14))
    if most < 3:
        return []
    if look.asked:
        lines = _preview(view, look.preview, closes, columns, most)
    elif look.detail:
        lines = _expert(deployment, view, look, closes, columns, most)
    else:
        lines = _summary(view, columns, most)
    return lines[:most]


def _summary(view: ExpertsView, columns: int, rows: int) -> list[Line]:
    worst = imbalance(view.tokens, view.owners, members(view))
    hot = hottest(view, _HOTTEST)
    words = [Part(0, line("balance" if members(view) > 1 else "hottest experts", "title"))]
    if members(view) > 1 and worst is not None:
        words.append(Part(0, line(f"each layer's busiest ep member does {worst:.2f}x the mean", "warn" if worst > 1.2 else "")))
    lines = [rule(keep(words, columns - 8), BLANK, columns)]
    each = 30
    beside = max(1, columns // each)
    texts = [f"E{cell.expert} L{cell.layer} {cell.ratio:.1f}x on e{view.owners[cell.expert]}" for cell in hot]
    lines.append(line(" hottest, over the mean of the layer:", "dim"))
    for at in range(0, len(texts), beside):
        lines.append(line("".join(f" {text:<{each - 1}}" for text in texts[at : at + beside])))
    owners = _owners(view, columns) if members(view) > 1 and rows >= 6 else []
    return [lines[0], *owners[: rows // 3], *lines[1:]]


def _owners(view: ExpertsView, columns: int) -> list[Line]:
    """A bar a member, on the scale of the busiest."""
    count = members(view)
    sums = [sum(column) for column in zip(*member_loads(view.tokens, view.owners, count), strict=True)]
    whole, most = sum(sums), max(sums)
    bars = []
    for member, load in enumerate(sums):
        text = f" e{member:<3} {percent(100 * load / whole if whole else None):>4} {short(load):>5} tokens in all layers "
        bars.append((Span(text), *gauge([Share(load, "█", "graph")], most, min(_BAR, columns - len(text)))))
    return bars


def _expert(deployment: DeploymentView, view: ExpertsView, look: Look, closes: str, columns: int, rows: int) -> list[Line]:
    """One expert over the layers, a column a layer."""
    expert = look.expert
    owner = view.owners[expert]
    ranks = " ".join(f"r{rank.info.rank}" for rank in deployment.ranks if rank.info.ep == owner)
    ratios = [row[expert] * len(row) / sum(row) if sum(row) else 0.0 for row in view.tokens]
    place = view.layers.index(look.layer)
    mine, whole = sum(row[expert] for row in view.tokens), sum(map(sum, view.tokens))
    title = (Span(f"E{expert}", "title"), Span(f"  on e{owner}: {ranks}"))
    facts = keep(
        [
            Part(0, line(f" L{look.layer}: {short(view.tokens[place][expert])} tokens, {ratios[place]:.2f}x the mean", "bold")),
            Part(1, line(f"all layers: {100 * mine / whole if whole else 0.0:.2f}% of tokens")),
            Part(2, line(f"hottest in L{view.layers[ratios.index(max(ratios))]}, {max(ratios):.1f}x")),
        ],
        columns,
    )
    drawn = history(ratios, min(len(ratios), columns - 8), max(1, rows - 3), max(ratios), 0)
    scale = [f"{max(ratios):4.1f}x "] + [" " * 6] * (len(drawn) - 1)
    chart = [(Span(f" {mark}", "dim"), Span(text, "graph")) for mark, text in zip(scale, drawn, strict=True)]
    under = line(f"       L{view.layers[0]} to L{view.layers[-1]}, over the mean of each layer", "dim")
    return [rule(title, line(closes, "dim"), columns), facts, *chart, under]


def _preview(view: ExpertsView, found: Placement | None, closes: str, columns: int, rows: int) -> list[Line]:
    title = line("another placement of experts", "title")
    if found is None:
        why = "one owner has them all" if members(view) == 1 else "the greedy one is no evener than what runs"
        return [rule(title, line(closes, "dim"), columns), line(f" nothing to gain: {why}", "dim")]
    lines = [rule(title, line("; ".join(filter(None, (closes, "nothing is moved"))), "dim"), columns)]
    gain = (Span(f" busiest member over the mean {found.before:.2f}x → "), Span(f"{found.after:.2f}x", "good"))
    lines.append((*gain, Span(f", {len(found.moves)} of {len(found.owners)} experts move")))
    texts = [f"E{move.expert} e{move.source}→e{move.target}" for move in found.moves]
    each = max((len(text) for text in texts), default=1) + 2
    beside = max(1, (columns - 1) // each)
    shown = texts[: beside * max(0, rows - 3)]
    for at in range(0, len(shown), beside):
        lines.append(line(" " + "".join(f"{text:<{each}}" for text in shown[at : at + beside])))
    if len(shown) < len(texts):
        lines.append(line(f" and {len(texts) - len(shown)} that take less", "dim"))
    return lines
