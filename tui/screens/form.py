"""What screens with a form have in common: a mark that moves, values that turn, one that is typed at the foot."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

from textual import on
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Input

from tui import checkpoints, keys
from tui.keys import Key
from tui.screens.view import View
from tui.session import Session
from tui.view.form import Field, Form
from tui.widgets.typing import Typing


class Found(Message):
    """Completions of the text that was typed."""

    def __init__(self, text: str, found: Sequence[str]) -> None:
        super().__init__()
        self.text, self.found = text, tuple(found)


class FormView(View):
    """`form` is what it fills in, `edit` takes it changed. While a field is typed every other key is text, and every key counts:
    the form has the text at once, and has the old one again when the user leaves it with escape.
    """

    CSS = """
    #typing { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    #typing.-open { display: block; }
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.found: tuple[str, ...] = ()  # completions of the path that is typed
        self.choice = -1  # of them
        self._before = ""
        self._field = Typing(id="typing", select_on_focus=False)

    @property
    @abstractmethod
    def form(self) -> Form:
        """As it is filled in now."""

    @abstractmethod
    def edit(self, form: Form) -> None:
        """Take it as changed, and show it."""

    def completions(self, field: Field, text: str) -> Sequence[str]:
        """Of a path. In a thread."""
        return checkpoints.completions(text)

    def middle(self) -> ComposeResult:
        yield from super().middle()
        yield self._field

    @property
    def typing(self) -> bool:
        return self._field.has_class("-open")

    def usable_keys(self) -> Sequence[Key]:
        return keys.TYPING if self.typing else super().usable_keys()

    def action_move(self, step: int) -> None:
        self.edit(self.form.move(step))

    def action_mark_field(self, at: int) -> None:
        """A click marks a field; on the marked one it begins to type."""
        again = at == self.form.at and not self.typing
        if self.typing:
            self.action_keep_field()
        self.edit(self.form.mark(at))
        if again:
            self.action_type()

    def action_turn(self, step: int) -> None:
        self.edit(self.form.turn(step))

    def action_type(self) -> None:
        of = self.form.marked
        self._before = self.form.values[of.name]
        self._field.placeholder = f"{of.label}: {of.help}"
        self._field.value = self._before
        self._field.cursor_position = len(self._before)
        self._field.add_class("-open")
        self._field.focus()
        self._complete()
        self.redraw()

    def action_leave_field(self) -> None:
        """As it was before."""
        self._close_field()
        self._put(self._before)

    @on(Input.Submitted, "#typing")
    def action_keep_field(self) -> None:
        text = self.found[self.choice].rstrip("/") if 0 <= self.choice < len(self.found) else self._field.value
        self._close_field()
        self._put(text)

    def action_complete_path(self) -> None:
        """As far as the completions agree, or the one that is chosen."""
        if self.found:
            text = self.found[self.choice] if self.choice >= 0 else checkpoints.completed(self._field.value, self.found)
            self._field.value = text
            self._field.cursor_position = len(text)

    def action_choose_path(self, step: int) -> None:
        if self.found:
            self.choice = (self.choice + step) % len(self.found) if self.choice >= 0 or step > 0 else len(self.found) - 1
            self.redraw()

    def _close_field(self) -> None:
        self._field.remove_class("-open")
        self.found, self.choice = (), -1
        self.set_focus(None)

    def _put(self, text: str) -> None:
        self.edit(self.form.put(**{self.form.marked.name: text}))

    @on(Input.Changed, "#typing")
    def _typed(self, event: Input.Changed) -> None:
        if self.typing and event.value != self.form.values[self.form.marked.name]:
            self.choice = -1
            self._put(event.value)
            self._complete()

    def _complete(self) -> None:
        if self.form.marked.kind == "path":
            look = partial(self._look, self.form.marked, self._field.value)
            self.run_worker(look, thread=True, exclusive=True, group="completions")

    def _look(self, field: Field, text: str) -> None:
        self.post_message(Found(text, self.completions(field, text)))

    @on(Found)
    def _offer(self, message: Found) -> None:
        if self.typing and message.text == self._field.value:
            self.found = message.found
            self.redraw()
