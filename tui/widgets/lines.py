"""The one widget: it draws the lines that a view made, and redraws only those that differ from the last ones."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from tui.theme import styles
from tui.view.line import Line, merged, text

_PLAIN = Style.null()


class Lines(ScrollView, can_focus=False):
    """`show` it lines as often as you like: what is the same costs nothing."""

    DEFAULT_CSS = """
    Lines {
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        scrollbar-gutter: stable;
        background: $background;
        color: $foreground;
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: Sequence[Line] = ()
        self._strips: dict[int, Strip] = {}
        self._styles: dict[str, Style] = {}

    @property
    def lines(self) -> Sequence[Line]:
        return self._lines

    def keep_in_sight(self, first: int, end: int) -> None:
        """Scroll no further than needed to show the rows from `first` to before `end`."""
        top, room = self.scroll_offset.y, self.size.height
        if first < top or end - first >= room:
            self.scroll_to(y=first, animate=False)
        elif end > top + room:
            self.scroll_to(y=end - room, animate=False)

    def show(self, lines: Sequence[Line]) -> None:
        old, self._lines = self._lines, lines
        if len(lines) != len(old):
            self.virtual_size = Size(self.scrollable_content_region.width, len(lines))
        seen = range(self.scroll_offset.y, self.scroll_offset.y + self.size.height)
        for y in range(max(len(lines), len(old))):
            if y >= len(lines) or y >= len(old) or lines[y] != old[y]:
                self._strips.pop(y, None)
                if y in seen:
                    self.refresh_line(y)

    def render_line(self, y: int) -> Strip:
        y += self.scroll_offset.y
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._strip(y)
        return strip

    def _strip(self, y: int) -> Strip:
        base = self.rich_style
        width = self.size.width
        if y >= len(self._lines):
            return Strip.blank(width, base)
        self._styles = self._styles or styles(self.app.current_theme, not self.app.no_color)
        segments = [
            Segment(span.text, base + self._styles[span.role] + (Style(meta={"@click": span.action}) if span.action else _PLAIN))
            for span in merged(self._lines[y])
        ]
        return self._selected(Strip(segments), y).adjust_cell_length(width, base).apply_offsets(0, y)

    def _selected(self, strip: Strip, y: int) -> Strip:
        span = self.text_selection.get_span(y) if self.text_selection else None
        if span is None:
            return strip
        length = strip.cell_length
        start, end = span[0], length if span[1] == -1 else min(span[1], length)
        if start >= end:
            return strip
        style = self.screen.get_component_rich_style("screen--selection")
        return Strip.join([strip.crop(0, start), strip.crop(start, end).apply_style(style), strip.crop(end)])

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selection.extract("\n".join(text(line).rstrip() for line in self._lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self._redraw()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles = {}
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    def _redraw(self) -> None:
        self._strips.clear()
        self.refresh()
