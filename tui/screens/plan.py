"""Screen 9: every layout of a model on so many devices, predicted again at every key; one of them is taken to Deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import on
from textual.message import Message

from telemetry.snapshot import DeploymentView
from tui import checkpoints, keys, planning
from tui.planning import Planned
from tui.screens.form import FormView
from tui.session import Session
from tui.view.form import Field, Form
from tui.view.frame import Frame
from tui.view.manual import Glossary
from tui.view.options import chosen
from tui.view.plan import SORTS, Row, Table, plan_screen, rows_of
from tui.view.plan_panels import PANELS

if TYPE_CHECKING:
    from runtime.planner.comparison import Comparison, Known

COMPARED_EVERY_S = 1.0
_GLOSSARY: Glossary = (
    ("@ o", "the layout to take for the use case; one that no other beats in both tokens/s a GPU and a user"),
    ("reqs", "requests in flight, of all replicas: the load at which the layout does best for the use case"),
    ("TPOT", "(E2E - TTFT) / (output tokens - 1), predicted; /user is its inverse"),
    ("limit", "what takes most of a decode step, and how much of it; prompts: what they add to a TPOT, where that is most of it"),
    ("bubble", "share of the time that a stage stands idle"),
    ("uncalibrated", "nobody has measured this machine: the catalogue's rates, and the error to expect nine times of ten"),
)


class Begun(Message):
    """The planner is imported: its fields, and what they begin with."""

    def __init__(self, fields: tuple[Field, ...], values: Mapping[str, str]) -> None:
        super().__init__()
        self.fields, self.values = fields, values


class Answered(Message):
    def __init__(self, values: Mapping[str, str], planned: Planned) -> None:
        super().__init__()
        self.values, self.planned = values, planned


class Measured(Message):
    def __init__(self, comparison: Comparison | str) -> None:
        super().__init__()
        self.comparison = comparison


class PlanScreen(FormView):
    KEYS = keys.PLAN
    GLOSSARY = _GLOSSARY

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._form = Form((Field("model", "model", "path", "the planner is being read"),))
        self._asked: Mapping[str, str] | None = None
        self._planned: Planned | None = None
        self._answered: Mapping[str, str] | None = None
        self._known: tuple[tuple[str, int], Known, Mapping[str, Any]] | None = None
        self._comparison: Comparison | str | None = None
        self._at, self._sort, self._panel = 0, SORTS[0], PANELS[0]

    def on_mount(self) -> None:
        super().on_mount()
        self.run_worker(partial(self._begin, self._served()), thread=True, group="plan")
        self.set_interval(COMPARED_EVERY_S, self._compare)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self._compare()

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        options = self.session.options
        return plan_screen(self._table(), snapshot, feed, options, self.usable_keys(), columns, rows - self.typing)

    def _table(self) -> Table:
        return Table(
            form=self._form,
            planned=self._planned,
            comparison=self._comparison,
            at=self._at,
            sort=self._sort,
            panel=self._panel,
            newer=self._answered != self._asked,
            found=self.found if self.typing else (),
            choice=self.choice,
        )

    def _served(self) -> DeploymentView | None:
        return chosen(self.session.look()[0], self.session.options)

    @property
    def form(self) -> Form:
        return self._form

    def edit(self, form: Form) -> None:
        self._form = form
        self._ask()
        self.redraw()

    def completions(self, field: Field, text: str) -> Sequence[str]:
        """Named models, then directories."""
        paths = checkpoints.completions(text) if not text or "/" in text or text.startswith((".", "~")) else []
        return [*planning.names(text), *paths]

    # Planning

    def _begin(self, view: DeploymentView | None) -> None:
        self.post_message(Begun(planning.fields(), planning.beginning(view)))

    @on(Begun)
    def _fill(self, message: Begun) -> None:
        self.edit(Form(message.fields, message.values))

    def _ask(self) -> None:
        values = self._form.values
        if values != self._asked and len(values) > 1:
            self._asked = values
            self.run_worker(partial(self._answer, values), thread=True, exclusive=True, group="plan")

    def _answer(self, values: Mapping[str, str]) -> None:
        """First what was asked; then, if nothing else is asked by now, what would change."""
        self.post_message(Answered(values, self._plan(values, more=False)))
        if values == self._asked:
            self.post_message(Answered(values, self._plan(values, more=True)))

    @staticmethod
    def _plan(values: Mapping[str, str], more: bool) -> Planned:
        try:
            return planning.plan(values, more)
        except Exception as error:  # a fault of ours: the screen says it and stays
            return Planned({"": f"this could not be planned: {type(error).__name__}: {error}"})

    @on(Answered)
    def _take_answer(self, message: Answered) -> None:
        if message.values != self._asked:
            return
        if message.planned.plan is None and self._planned is not None and self._planned.plan is not None:
            self._planned = Planned(message.planned.wrong)
        else:
            self._planned = message.planned
        if self._answered != message.values:
            self._at = 0
        self._answered = message.values
        self.redraw()

    # What runs, beside what is predicted of it

    def _compare(self) -> None:
        view = self._served()
        if not self.is_current:
            return
        if view is None or not view.ranks or view.state in ("FAILED", "STOPPED"):
            self._comparison = None if view is None else f"{view.name} does not run"
            return
        work = partial(self._measure, view, self.session.run_dir)
        self.run_worker(work, thread=True, exclusive=True, group="compare")

    def _measure(self, view: DeploymentView, run_dir: Path | None) -> None:
        from runtime.planner.comparison import predicted_and_measured
        from runtime.planner.names import PlanError

        key = view.name, view.generation
        try:
            if self._known is None or self._known[0] != key:
                self._known = key, self._know(view, run_dir is None), _settings(view.name, run_dir)
            comparison: Comparison | str = predicted_and_measured(view, self._known[1], self._known[2])
        except PlanError as error:
            comparison = str(error)
        except Exception as error:  # a fault of ours: the screen says it and stays
            comparison = f"this could not be compared: {type(error).__name__}: {error}"
        self.post_message(Measured(comparison))

    @staticmethod
    def _know(view: DeploymentView, elsewhere: bool) -> Known:
        """`elsewhere`: a replay or a script shows another machine, and a checkpoint that may be known by name alone."""
        from msgspec.structs import replace

        from runtime.planner.comparison import known_of
        from runtime.planner.hardware import catalogued

        name = planning.beginning(view)["model"]
        return known_of(replace(view, model=name), catalogued(view.device) if elsewhere else None)

    @on(Measured)
    def _take_measure(self, message: Measured) -> None:
        self._comparison = message.comparison
        self.redraw()

    # The table's keys

    def _rows(self) -> list[Row]:
        return rows_of(self._planned, self._sort)

    def action_row(self, step: int) -> None:
        self.action_mark_row(self._at + step)

    def action_mark_row(self, at: int) -> None:
        self._at = max(0, min(len(self._rows()) - 1, at))
        self.redraw()

    def action_next_sort(self) -> None:
        self._sort = SORTS[(SORTS.index(self._sort) + 1) % len(SORTS)]
        self.redraw()

    def action_next_panel(self) -> None:
        self._panel = PANELS[(PANELS.index(self._panel) + 1) % len(PANELS)]
        self.redraw()

    async def action_take(self) -> None:
        """To Deploy: as a change of what runs when that is the model, else as a new deployment."""
        rows = self._rows()
        if not rows:
            return
        entry = rows[min(self._at, len(rows) - 1)].entry
        layout = entry.sharding.layout
        if layout is None:
            engine = self._form.values["engine"]
            self.app.notify(
                f"Only {engine} has {entry.sharding}: shardscope spreads experts over the ep axis.", severity="warning"
            )
            return
        view, model = self._served(), self._form.values["model"]
        same = view is not None and view.state == "READY" and model in (view.model, Path(view.model).name)
        proposal = layout.asdict() if same else {"model": model, **layout.asdict()}
        self.session.proposal = proposal
        await self.app.run_action("app.switch_mode('deploy')")


def _settings(name: str, run_dir: Path | None) -> Mapping[str, Any]:
    """Of the deployment's spec; none where there is no daemon to ask."""
    from runtime.client import ControlClient, DaemonError

    if run_dir is None:
        return {}
    try:
        with ControlClient(run_dir) as client:
            return client.specs().get(name, {})
    except DaemonError:
        return {}
