"""Has what a form asks for judged, in a thread: as it is typed, and again when what is free on the machine may have changed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from textual.dom import DOMNode
from textual.message import Message

from telemetry.snapshot import DeploymentView
from tui.judge import Judge, seen
from tui.view.judgement import Judgement


class Question(NamedTuple):
    """What is to be judged."""

    name: str  # of the deployment that changes; "" for a new one
    values: tuple[tuple[str, str], ...]
    current: Mapping[str, Any] | None
    held: float
    taken: tuple[str, ...]
    elsewhere: DeploymentView | None  # whose machine is asked about, when it is not this one


class Judged(Message):
    def __init__(self, question: Question, judgement: Judgement) -> None:
        super().__init__()
        self.question, self.judgement = question, judgement


class Judging:
    """On behalf of `node`, which gets a `Judged` for each answer. The newest question replaces those before."""

    def __init__(self, node: DOMNode, judge: Judge) -> None:
        self._node, self._judge = node, judge
        self._asked: Question | None = None
        self._judged: tuple[Question, Judgement] | None = None

    def of(self, name: str) -> Judgement | None:
        """The last one, if it is of that deployment."""
        return self._judged[1] if self._judged and self._judged[0].name == name else None

    def keep_up(self, question: Question) -> None:
        """Ask it, unless it was the last one but for what changes by itself."""
        if self._asked is None or _settled(question) != _settled(self._asked):
            self.ask(question)

    def ask(self, question: Question) -> None:
        self._asked = question
        self._node.run_worker(partial(self._answer, question), thread=True, exclusive=True, group="judge")

    def take(self, message: Judged) -> bool:
        """Whether it answers the newest question; then it is the last judgement."""
        if message.question != self._asked:
            return False
        self._judged = message.question, message.judgement
        return True

    def _answer(self, question: Question) -> None:
        q = question
        machine = seen(q.elsewhere) if q.elsewhere else None
        try:
            judgement = self._judge.judge(dict(q.values), q.current, q.held, q.taken, machine)
        except Exception as error:  # a fault of ours: the screen says it and stays
            judgement = Judgement({"": f"this could not be judged: {type(error).__name__}: {error}"})
        self._node.post_message(Judged(q, judgement))


def _settled(question: Question) -> Question:
    """Without what changes by itself."""
    return question._replace(held=0.0, elsewhere=None)
