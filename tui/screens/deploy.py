"""Screen 6: a new deployment, or a change of a running one; what it would take is judged as it is typed, and nothing is done
before it is confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from textual import on
from textual.message import Message

from telemetry.snapshot import DeploymentView
from tui import checkpoints, keys
from tui.judge import Judge
from tui.keys import STEER
from tui.screens.confirm import ConfirmScreen
from tui.screens.form import FormView
from tui.screens.judging import Judged, Judging, Question
from tui.screens.orders import Orders
from tui.session import Session
from tui.steering import Steering, Told
from tui.view.course import Course
from tui.view.deploy import Desk, confirmation, deploy
from tui.view.form import Form
from tui.view.frame import Frame
from tui.view.manual import Glossary
from tui.view.options import chosen
from tui.view.settings import DEFAULTS, LIVE, NEW, as_text

JUDGED_FOR_S = 5.0  # what is free on the machine changes by itself
_GLOSSARY: Glossary = (
    (
        "fits",
        "weights, cache and work space are within the memory of a rank; tight: it serves, but fewer requests than asked for",
    ),
    ("work", "activations of the largest step, and what a process holds whatever it does, by the planner's formulas"),
    ("KV", "tokens that the cache of all attention groups holds; a replica has one group, and one for each ep member"),
    ("left", "of the GPU; on CPU of this rank's share of what the machine has left"),
    ("* and x", "a field that differs from what runs, and one that makes the deployment impossible"),
)


class Specs(Message):
    def __init__(self, specs: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.specs = specs


class DeployScreen(FormView):
    KEYS = keys.DEPLOY
    GLOSSARY = _GLOSSARY

    def __init__(self, session: Session, judge: Judge | None = None) -> None:
        super().__init__(session)
        self._forms = {"": Form(NEW, as_text(DEFAULTS))}
        self._new: bool | None = None  # None: as there is something to change or not
        self._specs: Mapping[str, Mapping[str, Any]] = {}
        self._seen: object = None  # what the specs were fetched for
        self._judging = Judging(self, judge or Judge())
        self._confirming = False  # as soon as it is judged
        self._orders = Orders()
        self._source = ""

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(JUDGED_FOR_S, self._judge_again)

    def on_screen_resume(self) -> None:
        self._seen = None
        super().on_screen_resume()

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        return deploy(self._desk(), snapshot, feed, self.session.options, self.usable_keys(), columns, rows - self.typing)

    def redraw(self) -> None:
        if self.is_current:
            if self.session.proposal:
                self._take(self.session.proposal)
                self.session.proposal = {}
            self._keep_up()
        super().redraw()

    # What the form is about

    def _served(self) -> DeploymentView | None:
        """The deployment that could be changed."""
        view = chosen(self.session.look()[0], self.session.options)
        return None if view is None or view.state in ("FAILED", "STOPPED") else view

    @property
    def _target(self) -> str:
        """Of the one that the form would change; "" for a new one."""
        running = self._served()
        return "" if running is None or self._new else running.name

    @property
    def form(self) -> Form:
        name = self._target
        running = self._served()
        if name and running is not None:
            return self._forms.get(name, Form(LIVE)).on(as_text(self._current(running)))
        return self._forms[""]

    def edit(self, form: Form) -> None:
        self._forms[self._target] = form
        self.redraw()

    def _current(self, view: DeploymentView) -> Mapping[str, Any]:
        """Its spec as the daemon has it; before it has said so, what is seen of it."""
        seen = {**dict.fromkeys(of.name for of in LIVE), **DEFAULTS, "name": view.name, "model": view.model, "dtype": view.dtype}
        device = "cpu" if view.device == "cpu" else "cuda"
        return self._specs.get(view.name) or {**seen, "device": device, **view.layout}

    def _take(self, proposal: Mapping[str, Any]) -> None:
        """Fill in what another screen proposes."""
        self._new = "model" in proposal or self._served() is None
        text = {name: value for name, value in as_text(proposal).items() if name in proposal}
        form = self.form.reset().put(**text)
        first = next((i for i, of in enumerate(form.fields) if of.name in text), form.at)
        self._source = "filled in from the screen before"
        self._forms[self._target] = form.mark(first)

    def _desk(self) -> Desk:
        running, name = self._served(), self._target
        return Desk(
            form=self.form,
            name=name,
            changeable=running.name if running else "",
            judgement=self._judging.of(name),
            course=self._shown_course(),
            obstacle=self._obstacle(running if name else None),
            found=self.found if self.typing else (),
            choice=self.choice,
            source=self._source,
        )

    def _obstacle(self, changing: DeploymentView | None) -> str:
        if changing is not None and changing.state != "READY" and not self.session.obstacle(STEER):
            return f"{changing.name} is {changing.state}: what is READY can be changed"
        return self.session.obstacle(STEER)

    def _shown_course(self) -> Course | None:
        snapshot, _ = self.session.look()
        return self._orders.shown(chosen(snapshot, self.session.options), snapshot.events if snapshot is not None else ())

    def _now_ns(self) -> int:
        """Of the clock of what is shown."""
        snapshot, _ = self.session.look()
        return snapshot.time_ns if snapshot is not None else 0

    # Judging

    def _question(self) -> Question:
        running, name, snapshot = self._served(), self._target, self.session.look()[0]
        values = dict(self.form.values)
        if name and running is not None:
            current: Mapping[str, Any] | None = self._current(running)
            values |= {"model": running.model, "name": name}
            held = float(sum(rank.memory.used or 0 for rank in running.ranks))
            return Question(name, tuple(values.items()), current, held, (), self._elsewhere(running))
        alive = [each.name for each in snapshot.deployments if each.state not in ("FAILED", "STOPPED")] if snapshot else []
        return Question("", tuple(values.items()), None, 0.0, tuple(alive), self._elsewhere(running))

    def _elsewhere(self, served: DeploymentView | None) -> DeploymentView | None:
        """A replay and a script show another machine than this one."""
        return served if self.session.run_dir is None else None

    def _keep_up(self) -> None:
        """Ask for judgements of what was typed, and for the specs of what runs."""
        self._judging.keep_up(self._question())
        snapshot, _ = self.session.look()
        seen = tuple((each.name, each.generation, each.state) for each in snapshot.deployments) if snapshot else ()
        if self.session.run_dir is not None and seen != self._seen:
            self._seen = seen
            self.run_worker(partial(self._fetch, self.session.run_dir), thread=True, exclusive=True, group="specs")

    def _judge_again(self) -> None:
        if self.is_current and not self.typing:
            self._judging.ask(self._question())

    def _fetch(self, run_dir: Path) -> None:
        from runtime.client import ControlClient, DaemonError

        try:
            with ControlClient(run_dir) as client:
                self.post_message(Specs(client.specs()))
        except DaemonError:
            pass  # the head says that the daemon is silent

    @on(Specs)
    def _know(self, message: Specs) -> None:
        self._specs = message.specs
        self.redraw()

    @on(Judged)
    def _take_judgement(self, message: Judged) -> None:
        if self._judging.take(message):
            if self._confirming:
                self._confirm()
            self.redraw()

    # The form's keys

    def action_new_or_change(self) -> None:
        if self._served() is not None:
            self._new = bool(self._target)
            self.redraw()

    def action_reset(self) -> None:
        self._source = ""
        self.edit(self.form.reset())

    def action_fix(self) -> None:
        """Take what would make it possible, or make it fit."""
        found = self._judging.of(self._target)
        if found is not None and found.remedy:
            remedy = found.remedy
            self.edit(self.form.put(**{name: text for name, text in as_text(remedy).items() if name in remedy}))
        else:
            self.app.notify("There is nothing to fix that a setting could.", severity="warning")

    def action_close(self) -> None:
        """Forget how the last order ended."""
        self._orders.close(self._now_ns())
        self.redraw()

    # Doing it

    def action_apply(self) -> None:
        """Ask, then do it."""
        obstacle = self._desk().obstacle
        if obstacle:
            self.app.notify(f"Not now: {obstacle}.", severity="warning")
        elif busy := self._orders.under_way:
            self.app.notify(f"Not now: {busy.verb} {busy.name} is under way.", severity="warning")
        else:
            self._confirming = True
            self._judging.ask(self._question())

    def _confirm(self) -> None:
        self._confirming = False
        desk = self._desk()
        found = desk.judgement
        if found is None:
            return
        if found.wrong or found.spec is None:
            self.app.notify(
                "It cannot be: " + next(iter(found.wrong.values()), "the form is not whole"), severity="error", timeout=10
            )
        elif desk.name and not found.changes:
            self.app.notify(f"Nothing is changed: {desk.name} serves under these already.", severity="warning")
        else:
            self.app.push_screen(ConfirmScreen(self._words), self._confirmed)

    def _words(self, columns: int) -> list[Any]:
        return confirmation(self._desk(), self.session.look()[0], columns)

    def _confirmed(self, yes: bool | None) -> None:
        desk, run_dir = self._desk(), self.session.run_dir
        if not yes or run_dir is None or desk.judgement is None or desk.judgement.spec is None:
            return
        steering, found = Steering(self, run_dir), desk.judgement
        if desk.name:
            self._orders.reconfigure(steering, desk.name, found.changes)
        else:
            assert found.spec is not None
            self._orders.deploy(steering, found.spec)
            self.run_worker(partial(checkpoints.remember, str(found.spec["model"])), thread=True, group="remember")
        self.redraw()

    @on(Told)
    def _told(self, told: Told) -> None:
        ended = self._orders.told(told, self._now_ns())
        if ended is not None:
            self._over(ended)
        self.redraw()

    def _over(self, course: Course) -> None:
        """Show what now runs; who is at another screen is told there."""
        if not course.error:
            self._forms.pop(course.name, None)
            self._source = ""
            if course.verb == "deploy":
                self._forms[""] = self._forms[""].reset()
                self._new = None
            self.session.set(deployment=course.name)
        if not self.is_current:
            words = course.error or f"{course.verb} {course.name}: done"
            self.app.notify(words, severity="error" if course.error else "information", timeout=10)
