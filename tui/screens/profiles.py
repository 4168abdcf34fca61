"""Screen 8: the recordings there are; one is opened as a replay, two are compared, any is exported."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from textual.worker import Worker, get_current_worker

from profiles.command import FORMATS, export
from profiles.comparison import Comparison, NotComparable, compare
from profiles.courses import ALIGNMENTS
from profiles.listing import SAMPLES, SUFFIX, UNFINISHED, Listed, Listing
from profiles.reader import Profile, ProfileError
from profiles.replay import ReplaySource
from profiles.tables import MissingPackage
from tui import keys
from tui.keys import Key
from tui.screens.asking import AskScreen
from tui.screens.view import View
from tui.session import Session
from tui.view.compare import compared
from tui.view.figures import percent
from tui.view.frame import Frame
from tui.view.manual import Glossary
from tui.view.profiles import Row, list_verdict, profiles
from tui.view.verdict import Verdict

_LOOK_S = 1.0
_GLOSSARY: Glossary = (
    (
        "state",
        "complete; recording: being written; cut: its recorder did not finish, what is whole is shown; damaged: no profile",
    ),
    ("change", "of B against A, as a share of A's value, or in percentage points where that is a percentage"),
    ("interval", "95% confidence interval of the change, by drawing blocks of each run's seconds again"),
    ("better, WORSE", "beyond noise, judged for all measures together, and by 1% or a point at least"),
    ("ITL", "of single gaps between a request's tokens"),
    ("course", "means by the second since the first with work, or by output tokens since then; A and B on one scale, from 0"),
    ("balance", "mean / max: of tokens over the ep axis' members; of a dense model, of compute over ranks"),
)


@dataclass(frozen=True)
class _Work:
    """What a thread does for the screen. `share`: 0 to 1, of a comparison."""

    words: str
    share: float | None = None


class ProfilesScreen(View):
    KEYS = keys.PROFILES
    OVER_REPLAY = True
    GLOSSARY = _GLOSSARY

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._typed: list[Path] = []  # files and directories
        self._listing, self._listed = Listing(), list[tuple[str, Listed]]()
        self._cursor: Path | None = None
        self._marks: list[Path] = []  # A, then B
        self._comparison: Comparison | None = None
        self._everything, self._align = False, ALIGNMENTS[0]
        self._work: _Work | None = None
        self._wrong = ""  # what the last thing that was tried failed of

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(_LOOK_S, self._look)
        self._look()

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        shown, options = self.usable_keys(), self.session.options
        if self._comparison is not None:
            return compared(self._comparison, self._everything, self._align, snapshot, feed, options, shown, columns, rows)
        listed = self._rows()
        return profiles(listed, self._place(), time.time(), self._verdict(listed), snapshot, feed, options, shown, columns, rows)

    def usable_keys(self) -> Sequence[Key]:
        offered = keys.PROFILES_COMPARED if self._comparison is not None else keys.PROFILES_LISTED
        own = {key.action for key in keys.PROFILES}
        return [key for key in super().usable_keys() if key.action not in own or key.method in offered]

    def _verdict(self, listed: Sequence[Row]) -> Verdict:
        if self._work is not None:
            share = "" if self._work.share is None else f" {percent(100 * self._work.share)}"
            return Verdict("info", f"{self._work.words}{share}")
        return Verdict("bad", self._wrong) if self._wrong else list_verdict(listed, self.usable_keys())

    def _rows(self) -> list[Row]:
        shown = self.session.replay.path if self.session.replay else None
        marks = dict(zip(self._marks, "AB", strict=False))
        return [Row(each, origin, marks.get(each.path, ""), each.path == shown) for origin, each in self._listed]

    def _place(self) -> int:
        paths = [each.path for _, each in self._listed]
        return paths.index(self._cursor) if self._cursor in paths else 0

    def _chosen(self) -> Listed | None:
        return self._listed[self._place()][1] if self._listed else None

    def action_move(self, rows: int) -> None:
        if self._comparison is not None:
            self.action_scroll(rows)
        elif self._listed:
            self._cursor = self._listed[max(0, min(len(self._listed) - 1, self._place() + rows))][1].path
            self.redraw()

    def action_mark(self) -> None:
        """A, then B; of a third one, B goes."""
        chosen = self._chosen()
        if chosen is not None and self._comparison is None:
            if chosen.path in self._marks:
                self._marks.remove(chosen.path)
            else:
                self._marks = [*self._marks[:1], chosen.path]
            self.redraw()

    def action_back(self) -> None:
        """From the comparison to the list, from there out of a replay."""
        if self._comparison is not None or self._work is not None:
            self.workers.cancel_group(self, "work")
            self._comparison = self._work = None
        elif self._wrong:
            self._wrong = ""
        elif self.session.replay and self.session.can_leave:
            self.session.leave()
        self.redraw()

    def action_everything(self) -> None:
        self._everything = not self._everything
        self.redraw()

    def action_realign(self) -> None:
        self._align = ALIGNMENTS[(ALIGNMENTS.index(self._align) + 1) % len(ALIGNMENTS)]
        self.redraw()

    def action_open(self) -> None:
        chosen = self._chosen()
        if chosen is not None and self._comparison is None:
            self._do("opening", partial(_opened, chosen.path), self._replay)

    def action_compare(self) -> None:
        if len(self._marks) < 2:
            self._wrong = "mark two recordings with space first: A, then B"
            self.redraw()
        else:
            a, b = self._marks
            self._do("reading both", partial(_compared, a, b, self._tell_share), self._show)

    def action_type_path(self) -> None:
        question = "A recording, or a directory of recordings."
        self.app.push_screen(AskScreen(question, "path; enter adds it to the list, esc leaves", _existing), self._take)

    def action_export(self) -> None:
        chosen = self._chosen()
        if chosen is not None:
            question = f"Export {chosen.path.name} into the working directory: {', '.join(FORMATS)}. Chrome's opens in Perfetto."
            understood = partial(_format, Path(os.getcwd()), chosen.path)
            self.app.push_screen(AskScreen(question, "enter exports, esc leaves", understood, FORMATS[0]), self._export)

    def _take(self, path: Path | None) -> None:
        if path is not None:
            self._typed.append(path)
            self._cursor = path
            self._look()

    def _export(self, asked: tuple[Path, str, Path] | None) -> None:
        if asked is not None:
            self._do(f"exporting to {asked[2].name}", partial(_exported, *asked), self.notify)

    def _replay(self, profile: Profile) -> None:
        self.session.enter(ReplaySource(profile))
        self.app.switch_mode("overview")

    def _show(self, found: Comparison) -> None:
        self._comparison, self._everything = found, False

    def _tell_share(self, share: float) -> None:
        """From a thread. Raises _Cancelled when nobody waits any more."""
        if get_current_worker().is_cancelled:
            raise _Cancelled
        if self._work is not None:
            self._work = _Work(self._work.words, share)

    def _do(self, words: str, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """In a thread, in place of what was under way; `done` with what comes of it."""
        self._work, self._wrong = _Work(words), ""
        self.run_worker(partial(self._carry_out, work, done), group="work", exclusive=True, thread=True)
        self.redraw()

    def _carry_out(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        worker = get_current_worker()
        try:
            found, wrong = work(), ""
        except _Cancelled:
            return
        except NotComparable as error:
            found, wrong = None, f"not comparable: {error}"
        except (OSError, ProfileError, MissingPackage) as error:
            found, wrong = None, str(error)
        except Exception as error:  # whatever it is, the screen says it and stays
            found, wrong = None, f"{type(error).__name__}: {error}"
        if not worker.is_cancelled:
            self.app.call_from_thread(self._end, found, wrong, done)
        elif isinstance(found, Profile):
            found.close()

    def _end(self, found: Any, wrong: str, done: Callable[[Any], None]) -> None:
        self._work, self._wrong = None, wrong
        if not wrong:
            done(found)
        self.redraw()

    def _look(self) -> None:
        if self.is_current or not self._listed:
            self.run_worker(self._list, group="listing", exclusive=True, thread=True)

    def _list(self) -> None:
        worker: Worker[None] = get_current_worker()
        home = self.session.home
        places = [("run", home / "profiles")] if home is not None else []
        places += [("file", path) for path in self._typed if path.is_dir()] + [("sample", SAMPLES)]
        files = [path for path in self._typed if not path.is_dir()]
        replay = self.session.replay
        if replay is not None and replay.path not in files and replay.path.parent not in {place for _, place in places}:
            files.append(replay.path)
        origins = {place: origin for origin, place in reversed(places)}
        found = self._listing.look([place for _, place in places], files)
        if not worker.is_cancelled:
            self._listed = [("file" if each.path in files else origins.get(each.path.parent, "file"), each) for each in found]
            self.app.call_from_thread(self.redraw)


class _Cancelled(Exception):
    """Nobody waits for it any more."""


def _opened(path: Path) -> Profile:
    return Profile(path)


def _compared(a: Path, b: Path, progress: Callable[[float], None]) -> Comparison:
    with Profile(a) as before, Profile(b) as after:
        return compare(before, after, progress)


def _exported(path: Path, form: str, out: Path) -> str:
    with Profile(path) as profile:
        export(profile, form, out, None)
    return f"Wrote {out}"


def _existing(text: str) -> Path:
    """Raises ValueError when nothing is there that could be a recording."""
    path = Path(text).expanduser().absolute()
    if not text or not path.exists():
        raise ValueError(f"there is no {text or 'such file'}")
    if path.is_file() and not path.name.endswith((SUFFIX, UNFINISHED)):
        raise ValueError(f"{path.name} is no recording: they end in {SUFFIX}, or {UNFINISHED} while they are written")
    return path


def _format(directory: Path, path: Path, text: str) -> tuple[Path, str, Path]:
    """(recording, format, a name that is free). Raises ValueError."""
    if text not in FORMATS:
        raise ValueError(f"'{text}' is no format: {', '.join(FORMATS)}")
    stem = path.name.removesuffix(UNFINISHED).removesuffix(SUFFIX)
    ending = ".trace.json" if text == "chrome" else f"-{text}"
    names = (f"{stem}{'' if number == 1 else f'-{number}'}{ending}" for number in range(1, 10_000))
    return path, text, next(directory / name for name in names if not (directory / name).exists())
