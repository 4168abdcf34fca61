"""Amounts by the second: a sum that goes along with its window is that of the window's rows, whenever and however often asked."""

from random import Random

import pytest
from handmade import MS, S

from telemetry.series import Seconds

T = 1000 * S
WINDOW = 10 * S


@pytest.mark.parametrize("seed", range(12))
def test_a_window_asked_often_shows_what_one_asked_once_does(seed):
    chance = Random(seed)
    often = Seconds(shown=1)
    told = []
    now = asked = T
    for _ in range(300):
        now += chance.choice((0, 30 * MS, 400 * MS, 400 * MS, S, 3 * S, 25 * S if chance.random() < 0.05 else 0))
        late = chance.choice((0, 0, S, 4 * S, 15 * S))
        begin = now - late - chance.choice((0, MS, 700 * MS, 5 * S))
        amounts = [chance.randrange(1000), chance.randrange(-50, 10**9), *([7] if chance.random() < 0.2 else [])]
        told.append((begin, now - late, amounts))
        often.spread(*told[-1])
        asked = max(asked, now + chance.choice((0, 0, 100 * MS, S, -S)))
        if chance.random() < 0.6:
            once = Seconds(shown=1)
            for each in told:
                once.spread(*each)
            assert often.total(asked, WINDOW) == once.total(asked, WINDOW)
            assert often.history(asked) == once.history(asked)
            restored = Seconds(shown=1)
            restored.restore(often.state(asked, WINDOW))
            assert restored.history(asked) == once.history(asked)
            if chance.random() < 0.1:
                often = restored


def test_amounts_spread_evenly_and_whole():
    seconds = Seconds()
    seconds.spread(T + 500 * MS, T + 3 * S, [7])
    assert seconds.history(T + 4 * S) == (1, 3, 3, 0)
    assert seconds.total(T + 4 * S, WINDOW) == [7]


def test_a_late_amount_adds_to_a_second_of_which_only_the_history_was_kept():
    seconds, restored = Seconds(shown=1), Seconds(shown=1)
    seconds.spread(T, T, [1, 5])
    seconds.spread(T + 30 * S, T + 30 * S, [1, 6])
    restored.restore(seconds.state(T + 31 * S, WINDOW))
    for each in (seconds, restored):
        each.spread(T, T, [1, 4])
    assert seconds.history(T + 31 * S) == restored.history(T + 31 * S)
    assert seconds.history(T + 31 * S)[0] == 9
