"""Colours: three themes of our own, and the styles that roles get in whichever theme is on.

A role also has weight (bold, dim) and its text a glyph or a number, so that nothing is said by colour alone.
"""

from __future__ import annotations

from rich.style import Style
from textual.theme import Theme

DARK = Theme(
    name="shardscope-dark",
    primary="#5fb3d9",
    secondary="#b294d6",
    accent="#5fb3d9",
    success="#7fc97f",
    warning="#e6b450",
    error="#f07178",
    foreground="#d5dbe1",
    background="#10151a",
    surface="#182028",
    panel="#1f2933",
    dark=True,
)
LIGHT = Theme(
    name="shardscope-light",
    primary="#005f87",
    secondary="#6f42a5",
    accent="#005f87",
    success="#2e7d32",
    warning="#9a5b00",
    error="#b3261e",
    foreground="#1f2429",
    background="#fbfaf7",
    surface="#f0efe9",
    panel="#e4e2da",
    dark=False,
)
COLOUR_BLIND = Theme(  # blue and orange keep apart in every common deficiency; red against green does not
    name="shardscope-blue-orange",
    primary="#56b4e9",
    secondary="#0072b2",
    accent="#56b4e9",
    success="#56b4e9",
    warning="#e69f00",
    error="#ff7f2a",
    foreground="#e2e6ea",
    background="#0f1318",
    surface="#171d24",
    panel="#1e262f",
    dark=True,
)
THEMES = (DARK, LIGHT, COLOUR_BLIND)


def next_theme(name: str) -> str:
    names = [theme.name for theme in THEMES]
    return names[(names.index(name) + 1) % len(names)] if name in names else names[0]


def styles(theme: Theme, colour: bool) -> dict[str, Style]:
    """The style of each role of `tui.view.line`. Without colour only weight is left."""

    def style(hex_or_none: str | None, *, bold: bool = False, dim: bool = False) -> Style:
        return Style(color=hex_or_none if colour and not theme.ansi else None, bold=bold or None, dim=dim or None)

    quiet = _mixed(theme.foreground, theme.background, 0.58) if colour and not theme.ansi else None
    area = _mixed(theme.accent, theme.background, 0.7) if colour and not theme.ansi else None  # large, so not as bright as text
    return {
        "": Style.null(),
        "dim": style(quiet) if quiet else Style(dim=True),
        "bold": style(theme.foreground, bold=True),
        "title": style(theme.primary, bold=True),
        "accent": style(theme.accent),
        "graph": style(area),
        "good": style(theme.success),
        "warn": style(theme.warning, bold=True),
        "bad": style(theme.error, bold=True),
        "weights": style(theme.primary),
        "kv": style(theme.secondary),
        "other": style(quiet),
        "wait": style(theme.warning),
        "key": style(theme.primary, bold=True),
    }


def _mixed(front: str | None, back: str | None, share: float) -> str | None:
    """A real colour instead of the terminal's own dim, which is unreadable on some backgrounds."""
    if not front or not back:
        return None
    pairs = [(int(front[i : i + 2], 16), int(back[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * f + (1 - share) * b):02x}" for f, b in pairs)
