"""A sweep over layouts that are not there: what is refused, what is cut, and that the first layout comes back."""

import threading

import pytest
from test_steps import result

from runtime.client import DaemonError, GivenUp
from runtime.layout import Layout
from runtime.stress.asked import asked
from runtime.stress.report import as_html
from runtime.stress.result import Steps, Sweep, as_object, runs_of
from runtime.stress.sweep import run_sweep
from runtime.stress.sweep_table import frontier, sweep_lines, sweep_plot
from runtime.stress.values import BadPlan

TP1, TP2, PP2, EP2 = (Layout.parse(text) for text in ("tp1", "tp2", "pp2", "ep2"))


class Fake:
    """It begins with tp2; layouts in `refuses` raise. `now` is what it serves."""

    name = "t"

    def __init__(self, refuses: dict[Layout, Exception] | None = None, broken: str = "") -> None:
        self.now, self.refuses, self.broken, self.rested = TP2, refuses or {}, broken, 0

    def layout(self) -> Layout:
        return self.now

    def change(self, layout: Layout) -> float:
        if layout in self.refuses:
            raise self.refuses[layout]
        self.now = layout
        return 0.5

    def rest(self) -> None:
        self.rested += 1

    def restore(self, layout: Layout) -> str:
        self.now = layout
        return self.broken


def steps(layout: Layout) -> Steps:
    """More ranks, more throughput and less for each client."""
    size = layout.world_size
    return Steps((result(1, 50.0 * size, 1.0 / size), result(8, 200.0 * size, 4.0 / size)), 8, "", False)


def swept(fake: Fake, layouts: tuple[Layout, ...], measure=steps, stop: threading.Event | None = None) -> Sweep:
    return run_sweep(layouts, fake, measure, lambda _: None, stop or threading.Event())


def test_each_layout_is_measured_and_the_first_restored():
    fake = Fake()
    found = swept(fake, (TP1, PP2))
    assert [(trial.layout, len(trial.steps), trial.pause_s) for trial in found.trials] == [("tp1", 2, 0.5), ("pp2", 2, 0.5)]
    assert (found.first, found.unrestored, fake.now) == ("tp2", "", TP2)
    assert len(runs_of(found)) == 4


def test_what_cannot_be_is_marked_with_the_reason_and_the_rest_goes_on():
    fake = Fake({EP2: DaemonError("the model has no experts", usage=True)})

    def measure(layout: Layout) -> Steps:
        if layout == TP1:
            raise BadPlan("the model's context holds 64")
        return steps(layout)

    found = swept(fake, (EP2, TP1, PP2), measure)
    assert [trial.why for trial in found.trials] == ["the model has no experts", "the model's context holds 64", ""]
    assert fake.rested == 1
    text = "\n".join(sweep_lines(found))
    assert "A ep2    NOT MEASURED the model has no experts" in text
    assert "C*pp2" in text
    page = as_html(found)
    assert "not measured: the model has no experts" in page
    assert "Throughput against interactivity" in page
    assert "src=" not in page
    assert as_object(found)["trials"][0]["why"] == "the model has no experts"


def test_an_interruption_anywhere_restores():
    stop = threading.Event()

    def cut(layout: Layout) -> Steps:
        stop.set()
        return steps(layout)

    fake = Fake()
    found = swept(fake, (TP1, PP2), cut, stop)
    assert ([trial.layout for trial in found.trials], found.interrupted, fake.now) == (["tp1"], True, TP2)
    fake = Fake({TP1: GivenUp()})
    found = swept(fake, (TP1, PP2))
    assert (found.trials, found.interrupted, fake.now) == ((), True, TP2)

    def twice(layout: Layout) -> Steps:
        raise KeyboardInterrupt

    fake = Fake()
    with pytest.raises(KeyboardInterrupt):
        swept(fake, (TP1, PP2), twice)
    assert fake.now == TP2


def test_a_layout_that_does_not_come_back_is_said():
    found = swept(Fake(broken="rank 1 died"), (TP1,))
    assert found.unrestored == "rank 1 died"
    assert "did NOT get its layout tp2 back: rank 1 died" in "\n".join(sweep_lines(found))


def test_the_frontier_is_what_nothing_beats():
    results = [result(tokens_per_s=t, ok=1) for t in (100.0, 300.0, 200.0, 0.0)]
    assert frontier(results) == {1}
    assert frontier([]) == set()
    plot = "\n".join(sweep_plot(swept(Fake(), (TP1, PP2)), 40, 8))
    assert "A" in plot
    assert "B" in plot


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sweep": "tp2", "rate": 3.0}, "--sweep with --rate: a sweep is made of closed loops"),
        ({"sweep": "tp2", "fault": ["t=1 SIGKILL rank=0"]}, "--sweep with --fault"),
        ({"sweep": "xp2"}, "'xp2' is no layout"),
        ({"sweep": " , "}, "it must name a layout; nearest that works: tp2,pp2"),
    ],
)
def test_a_sweep_that_cannot_be(given: dict, says: str):
    with pytest.raises(BadPlan, match=says):
        asked(given)


def test_what_a_sweep_is_given():
    found = asked({"sweep": "tp4,pp4,TP4", "requests": 3})
    assert (found.sweep, found.steps) == ((Layout(tp=4), Layout(pp=4)), (1, 8, 32))
    assert asked({"sweep": "tp4", "concurrency": "8"}).steps == (8,)
    assert asked({"sweep": "tp4", "concurrency": "auto"}).steps == ()
    assert asked({"concurrency": "8"}).steps is None
