"""The fold of one deployment's experts: how many tokens each took, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import repeat, zip_longest

from msgspec import Struct

from telemetry.records import ExpertRecord
from telemetry.series import SECOND, Recent
from telemetry.snapshot import ExpertsView

MAX_LAYERS = 256
MAX_EXPERTS = 1024  # of a layer
UNKNOWN = -1  # the owner of an expert of which nobody told

ExpertSecond = dict[int, list[int]]  # by layer, tokens by expert of the model


class ExpertState(Struct, frozen=True, array_like=True):
    """All that an `ExpertFold` can still show."""

    owners: list[int] = []
    newest: int | None = None
    seconds: dict[int, ExpertSecond] = {}


class ExpertFold:
    """Tokens by second, layer and expert. A record counts whole in the second in which it ends: tokens stay whole."""

    def __init__(self, window_s: float) -> None:
        self._owners: list[int] = []  # by expert, its place on the ep axis
        self._seconds: Recent[ExpertSecond] = Recent(dict, window_s)

    def add(self, record: ExpertRecord, ep: int) -> None:
        """Take the record of one rank of each tp group, which stands at `ep`."""
        second = self._seconds.at(record.end_ns // SECOND)
        experts = [(place, expert) for place, expert in enumerate(record.experts) if 0 <= expert < MAX_EXPERTS]
        if second is None or not experts:
            return
        width = 1 + max(expert for _, expert in experts)
        self._owners += [UNKNOWN] * (width - len(self._owners))
        for _, expert in experts:
            self._owners[expert] = ep
        for layer, tokens in zip(record.layers, record.tokens, strict=False):
            counts = second.get(layer)
            if counts is None:
                if len(second) >= MAX_LAYERS:
                    return
                counts = second[layer] = []
            counts += [0] * (width - len(counts))
            for place, expert in experts:
                if place < len(tokens):
                    counts[expert] += tokens[place]

    def view(self, now_ns: int, window_ns: int) -> ExpertsView | None:
        """The window's sums; `None` of a model without experts."""
        if not self._owners:
            return None
        width = len(self._owners)
        rows: defaultdict[int, list[Sequence[float]]] = defaultdict(list)
        for weight, second in self._seconds.window(now_ns, window_ns):
            for layer, counts in second.items():
                rows[layer].append(counts if weight == 1 else [weight * n for n in counts])
        layers = sorted(rows)
        tokens = tuple(tuple(map(round, map(sum, zip_longest(*rows[layer], repeat(0, width), fillvalue=0)))) for layer in layers)
        return ExpertsView(tuple(layers), tuple(self._owners), tokens)

    def state(self, now_ns: int, window_ns: int) -> ExpertState:
        """All that views from `now` on can show of what came so far."""
        newest, rows = self._seconds.state(now_ns, window_ns)
        copies = {second: {layer: list(counts) for layer, counts in row.items()} for second, row in rows.items()}
        return ExpertState(list(self._owners), newest, copies)

    def restore(self, state: ExpertState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no experts."""
        if len(state.owners) > MAX_EXPERTS or any(
            len(counts) > len(state.owners) for second in state.seconds.values() for counts in second.values()
        ):
            raise ValueError("more experts than there can be")
        self._owners = list(state.owners)
        copies = {at: {layer: list(counts) for layer, counts in second.items()} for at, second in state.seconds.items()}
        self._seconds.restore(state.newest, copies)
