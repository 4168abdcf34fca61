"""How far an order to the daemon is, phase by phase, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.control import ROLLING_BACK, Changed, PhaseTime, Progress
from tui.view.figures import age, percent, size
from tui.view.line import BLANK, Line, Part, Span, clean, crop, joined, line, rule, width
from tui.view.wrap import wrapped

START = ("spawn", "connect", "load", "kv", "warm-up", "replay")
CHANGE = ("drain", "stop", "load", "warm-up", "replay")
_WITHIN_LOAD = ("spawn", "connect", "kv")  # of a reconfiguration, whose phases are fewer
_SURE = 0.02  # of a phase done, before what is left of it can be told


@dataclass(frozen=True)
class Course:
    """`words`: what was ordered. `at`: the last that was told; `ends`: phases that are over, with their seconds. `said`: how a
    reconfiguration ended, in the daemon's words, and whether that is `good`; `error`: why an order failed; `over`: nothing more
    comes, since `over_ns` of the snapshots' clock."""

    verb: str
    name: str
    words: str = ""
    at: Progress | None = None
    ends: tuple[PhaseTime, ...] = ()
    since_ns: int | None = None  # the present phase
    said: str = ""
    good: bool = False
    error: str = ""
    over: bool = False
    over_ns: int | None = None

    @property
    def phases(self) -> tuple[str, ...]:
        return CHANGE if self.verb == "reconfigure" else START

    def told(self, progress: Progress) -> Course:
        """The beginning of a phase is the end of the one before."""
        last, phase = self.at, self.phase_of(progress)
        if last is None or not phase:
            return replace(self, at=last or progress)
        ends = self.ends
        before = self.phase_of(last)
        if before and (before, back(last)) != (phase, back(progress)) and last.phase_ns and progress.phase_ns:
            seconds = (progress.phase_ns - (self.since_ns or last.phase_ns)) / 1e9
            ends = (*ends, PhaseTime(before, seconds, back(last)))
        same = before == phase and back(last) == back(progress)
        return replace(self, at=progress, ends=ends, since_ns=self.since_ns if same else progress.phase_ns)

    def phase_of(self, progress: Progress | None) -> str:
        phase = progress.phase if progress else ""
        return "load" if self.verb == "reconfigure" and phase in _WITHIN_LOAD else phase

    def how(self, changed: Changed) -> Course:
        return replace(self, said=first_line(changed.words), good=changed.served, ends=tuple(changed.phases))

    def ended(self, error: str = "", at_ns: int | None = None) -> Course:
        return replace(self, error=error, over=True, over_ns=at_ns)


def first_line(words: str) -> str:
    """What died often has last words of its own, which the events hold."""
    return words.partition("\n")[0]


def back(at: Progress | None) -> bool:
    """Whether what was changed is being taken back."""
    return at is not None and at.reason.startswith(ROLLING_BACK)


def course_lines(course: Course, now_ns: int, units: str, columns: int, rows: int) -> list[Line]:
    """A title, the phases, and how it ended: at most so many rows."""
    at = course.at
    right = line(f"generation {at.generation}", "dim") if at else BLANK
    if course.over_ns is not None:
        right = line(f"{age((now_ns - course.over_ns) / 1e9)} ago", "dim")
    words = at.reason if at is not None and back(at) and not course.said else course.words
    title = f"{course.verb} {clean(course.name)}" + (f": {clean(words)}" if words else "")
    lines = [rule(crop(line(title, "title"), columns - 6), right, columns)]
    lines += _phases(course, now_ns, units, columns)
    text, role = _ending(course)
    lines += [line(f" {each}", role) for each in wrapped(text, columns - 2, max(1, rows - len(lines)))] if text else []
    return lines[: max(0, rows)]


def _ending(course: Course) -> tuple[str, str]:
    if course.said:
        return (f"✓ {clean(course.said)}", "good") if course.good else (f"× {clean(course.said)}", "bad")
    if course.error:
        return f"× {clean(course.error)}", "bad"
    if course.over:
        return {"deploy": f"✓ '{clean(course.name)}' serves", "stop": f"✓ '{clean(course.name)}' is stopped"}.get(
            course.verb, ""
        ), "good"
    return "", ""


def _phases(course: Course, now_ns: int, units: str, columns: int) -> list[Line]:
    """Those that are over with their seconds, the present one with what is left of it, those to come; a way back on a line of
    its own."""
    going = not course.over and not course.said
    present = course.phase_of(course.at) if going else ""
    lines: list[Line] = []
    for rollback in (False, True):
        ends = [each for each in course.ends if each.rollback == rollback]
        parts = [Part(0, _over(each)) for each in ends]
        if going and back(course.at) == rollback:
            if present and course.at is not None:
                parts.append(Part(0, _now(course.at, present, now_ns, units)))
            parts += [Part(9, line(f"· {name}", "dim")) for name in _to_come(course, ends, present)]
        if parts:
            lead = line(" back: ", "warn") if rollback else line(" ")
            lines += _flowing(lead, parts, columns)
    return lines


def _flowing(lead: Line, parts: Sequence[Part], columns: int) -> list[Line]:
    """One after another over as many lines as they need; those to come stay out where the line is full."""
    lines, spans = [], lead
    for part in parts:
        full = width(spans) + 2 + width(part.line) > columns and len(spans) > len(lead)
        if full and part.drop:
            break
        if full:
            lines.append(spans)
            spans = lead if not lead[0].text.strip() else line(" " * width(lead))
        spans = (*spans, *(line("  ") if len(spans) > 1 else ()), *part.line)
    return [crop(each, columns) for each in (*lines, spans)]


def _to_come(course: Course, ends: Sequence[PhaseTime], here: str) -> tuple[str, ...]:
    names = course.phases
    last = here or (ends[-1].phase if ends else "")
    return names[names.index(last) + 1 :] if last in names else names


def _over(end: PhaseTime) -> Line:
    return Span("✓ ", "good"), Span(f"{end.phase} {age(end.seconds)}")


def _now(at: Progress, phase: str, now_ns: int, units: str) -> Line:
    """`load 43% 0.5Gi of 1.2Gi, 2.1 s left`."""
    words = [Span("◐ ", "warn"), Span(phase if phase == at.phase else f"{phase} ({at.phase})", "bold")]
    if at.share is not None:
        words.append(Span(f" {percent(100 * at.share)}"))
    if at.to_load:
        words.append(Span(f" {size(at.loaded, units)} of {size(at.to_load, units)}"))
    if at.phase_ns is not None:
        elapsed = max(0.0, (now_ns - at.phase_ns) / 1e9)
        left = elapsed * (1 - at.share) / at.share if at.share is not None and at.share >= _SURE else None
        words.append(Span(f", {age(left)} left" if left is not None else f", {age(elapsed)} so far", "dim"))
    return joined([tuple(words)])
