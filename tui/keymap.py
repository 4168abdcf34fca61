"""The user's own keys: a TOML file that gives actions other keys, checked before anything is drawn.

[app]
pause = "p"
[rank]
rank = ["n", "ctrl+n"]
"""

from __future__ import annotations

import difflib
import os
import re
import string
import tomllib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tui.keys import Key

Tables = Mapping[str, Sequence[Key]]  # by the first word of their keys' names; "app" and "view" hold on every screen

_TEXTUALS = {"solidus": "slash", "reverse_solidus": "backslash", "commercial_at": "at", "low_line": "underscore"}
_TEXTUALS |= {"hyphen_minus": "minus", "plus_sign": "plus"}  # names that Textual gives beside Unicode's


def _name(character: str) -> str:
    """Textual's, of a character that is neither letter nor digit."""
    unicode = unicodedata.name(character).lower().replace("-", "_").replace(" ", "_")
    return _TEXTUALS.get(unicode, unicode)


_PUNCTUATION = {_name(character): character for character in string.punctuation}
_NAMED = {
    *("up", "down", "left", "right", "home", "end", "pageup", "pagedown", "insert", "delete", "backspace", "enter", "tab"),
    *("escape", "space", *(f"f{number}" for number in range(1, 25))),
    *_PUNCTUATION,
}
_MODIFIERS = ("ctrl", "shift", "alt")
_SHOWN = {**_PUNCTUATION, "escape": "esc", "pagedown": "pgdn", "pageup": "pgup"}


class KeymapError(ValueError):
    """What is wrong with the file, at which line, and what would be right."""


@dataclass(frozen=True)
class Keymap:
    """`bound`: the keys of an action by its name, several separated by commas."""

    bound: Mapping[str, str] = field(default_factory=dict)

    def table(self, name: str, keys: Iterable[Key]) -> list[Key]:
        """A table with the user's keys. Some entries show the key of another with their own, `[ ]`: not once that is another."""
        given = [(key, self.applied(name, key)) for key in keys]
        gone = {key.shown for key, mine in given if mine is not key}
        return [_without(gone, mine) if mine is key else mine for key, mine in given]

    def applied(self, table: str, key: Key) -> Key:
        mine = self.bound.get(key.named(table)) if self.bound else None
        return key if mine is None else key._replace(key=mine, shown=" ".join(map(shown, mine.split(","))))


def _without(gone: Collection[str], key: Key) -> Key:
    words = [word for word in key.shown.split() if word not in gone]
    return key._replace(shown=" ".join(words)) if gone and words else key


def shown(key: str) -> str:
    *modifiers, base = key.split("+")
    base = _SHOWN.get(base, base)
    return "^" + base if modifiers == ["ctrl"] else "+".join((*modifiers, base))


def default_path() -> Path:
    """$SHARDSCOPE_KEYS, else keys.toml in the user's configuration."""
    if told := os.environ.get("SHARDSCOPE_KEYS"):
        return Path(told)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "shardscope" / "keys.toml"


def read_keymap(tables: Callable[[], Tables], path: Path | None = None) -> Keymap:
    """The user's keys; those of the tables, which are then not even asked for, where there is no file. Raises KeymapError."""
    place = path or default_path()
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError:
        if path is None and "SHARDSCOPE_KEYS" not in os.environ:
            return Keymap()
        raise KeymapError(f"{place}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeymapError(f"{place}: {error}") from None
    try:
        return parsed(text, tables())
    except KeymapError as error:
        raise KeymapError(f"{place}: {error}") from None


def parsed(text: str, tables: Tables) -> Keymap:
    """Raises KeymapError naming line, rule and the nearest thing that works."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line (\d+)", str(error))
        raise KeymapError(f"line {where[1] if where else text.count(chr(10)) + 1}: {error}") from None
    names = {key.named(table): key for table, keys in tables.items() for key in keys}
    bound: dict[str, str] = {}
    for table, entries in given.items():
        if not isinstance(entries, dict):
            raise KeymapError(f"line {_line(text, '', table)}: '{table}' stands outside of a table{_near(table, names)}")
        if table not in tables:
            raise KeymapError(f"line {_line(text, table)}: no keys are called [{table}]; tables are {', '.join(tables)}")
        for action, keys in entries.items():
            at, name = f"line {_line(text, table, action)}", f"{table}.{action}"
            if name not in names:
                raise KeymapError(f"{at}: there is no action '{name}'{_near(name, names)}")
            mine = ",".join(_checked(key, at, name) for key in _listed(keys, at, name))
            if mine != names[name].key:
                bound[name] = mine
    _clashes(bound, tables, text)
    return Keymap(bound)


def listing(tables: Tables, keymap: Keymap) -> list[str]:
    """The file that would change nothing: every action with its keys, what it does beside it."""
    lines = [f"# {default_path()}"]
    for table, keys in tables.items():
        lines += ["", f"[{table}]"]
        for key in (keymap.applied(table, key) for key in keys):
            listed = [f'"{each}"' for each in key.key.split(",")]
            value = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
            entry = f"{key.named(table).partition('.')[2]} = {value}"
            lines.append(f"{entry:<44} # {key.help}" if key.help else entry)
    return lines


def _listed(keys: object, at: str, name: str) -> list[str]:
    listed = [keys] if isinstance(keys, str) else keys
    if not isinstance(listed, list) or not listed or not all(isinstance(key, str) for key in listed):
        raise KeymapError(f'{at}: {name} must be a key or a list of keys, as "p" or ["p", "ctrl+x"], not {keys!r}')
    return listed


def _checked(key: str, at: str, name: str) -> str:
    """In Textual's name."""
    *modifiers, base = [key] if len(key) == 1 else key.split("+")
    if len(base) == 1 and base.isprintable() and not base.isspace():
        base = base if base.isalnum() else _name(base)
    elif base not in _NAMED:
        raise KeymapError(f"{at}: {name} is given '{key}', which is no key{_near(base, _NAMED)}")
    if wrong := [each for each in modifiers if each not in _MODIFIERS]:
        raise KeymapError(f"{at}: {name} is given '{key}': '{wrong[0]}' is none of {', '.join(_MODIFIERS)}")
    return "+".join((*modifiers, base))


def _clashes(bound: Mapping[str, str], tables: Tables, text: str) -> None:
    """A key that the user gives must mean one thing on a screen."""
    keymap = Keymap(bound)
    everywhere = [name for name in ("view", "app") if name in tables]
    for screen in tables:
        taken: dict[str, str] = {}
        for table in dict.fromkeys((screen, *everywhere)):
            for key in tables[table]:
                name = key.named(table)
                for each in keymap.applied(table, key).key.split(","):
                    other = taken.setdefault(each, name)
                    if other != name and (name in bound or other in bound):
                        mine = name if name in bound else other
                        line = _line(text, *mine.split(".", 1))
                        both = f"{other} and {name}"
                        raise KeymapError(f"line {line}: '{shown(each)}' would mean both {both}; give one of them another key")


def _near(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return f"; the nearest is '{found[0]}'" if found else ""


def _line(text: str, table: str, action: str = "") -> int:
    """Where an entry stands, whichever way it is written; 1 where that cannot be told."""
    here, entry = "", re.compile(r"""\s*["']?([\w.-]+)["']?\s*=""")
    for number, row in enumerate(text.splitlines(), 1):
        if header := re.match(r"""\s*\[\s*["']?([\w.-]+)["']?\s*\]""", row):
            here = header[1]
            if here == table and not action:
                return number
        elif found := entry.match(row):
            name = f"{here}.{found[1]}".strip(".")
            if name == f"{table}.{action}".strip(".") or (not action and name.startswith(f"{table}.")):
                return number
    return 1
