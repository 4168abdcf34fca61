"""Screens by name, each imported when it is first asked for: the first paint does not wait for those that nobody sees yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tui.screens.view import View


class Catalogue(Mapping[str, "type[View]"]):
    """`Catalogue(rank="rank.RankScreen")`: a module of this package and its class."""

    def __init__(self, **places: str) -> None:
        self._places = places

    def __getitem__(self, name: str) -> type[View]:
        module, _, screen = self._places[name].partition(".")
        return cast("type[View]", getattr(import_module(f"tui.screens.{module}"), screen))

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
