"""The one widget: it draws the lines that a view made, and redraws only those that differ from the last ones."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.filter import LineFilter
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from tui.theme import styles
from tui.view.line import Line, merged, text, width

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
        self._roles: dict[str, Style] = {}
        self._styles: dict[tuple[str, str], Style] = {}  # of a role and a click: to add styles up costs more than to draw

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
        same = {y for y in seen if y < min(len(lines), len(old)) and lines[y] == old[y]}
        self._strips = {y: strip for y, strip in self._strips.items() if y in same}
        room = max(self.virtual_size.width, self.size.width)
        changed = [Region(0, y - seen.start, room, 1) for y in seen if y not in same and y < max(len(lines), len(old))]
        if changed:
            self.refresh(*changed)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Without Textual's way through styles: there is no border, no padding, and what is the same was drawn already."""
        top, hover = self.scroll_offset.y, self.hover_style
        strips = [self._drawn(top + y).crop(crop.x, crop.right) for y in crop.line_range]
        if hover.meta.get("@click"):
            strips = [strip.style_links(hover.link_id, self.link_style_hover) for strip in strips]
        return strips

    def render_line(self, y: int) -> Strip:
        """For whoever asks what the mouse is on, with offsets. To draw them as well would cost as much as all the rest."""
        y += self.scroll_offset.y
        return self._drawn(y).apply_offsets(0, y)

    def _drawn(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._strip(y)
        return strip

    def _strip(self, y: int) -> Strip:
        room, base = self.outer_size.width, self._style("", "")
        if y >= len(self._lines):
            return Strip.blank(room, base)
        known = self._styles
        spans = merged(self._lines[y])
        segments = [Segment(text, known.get((role, action)) or self._style(role, action)) for text, role, action in spans]
        cells = width(spans)
        if cells < room:
            segments.append(Segment(" " * (room - cells), base))
        strip = Strip(segments, max(cells, room))
        if self.screen.selections:
            strip = self._selected(strip, y)
        return strip.adjust_cell_length(room, base)

    def _style(self, role: str, action: str) -> Style:
        known = self._styles.get((role, action))
        if known is None:
            self._roles = self._roles or styles(self.app.current_theme, not self.app.no_color)
            known = self.rich_style + self._roles[role] + (Style(meta={"@click": action}) if action else _PLAIN)
            known = self._styles[role, action] = self._filtered(known)
        return known

    def _filtered(self, style: Style) -> Style:
        segments, background = [Segment("", style)], self.background_colors[1]
        for each in self.app.get_line_filters():
            segments = each.apply(segments, background)
        return segments[0].style or _PLAIN

    def get_line_filters(self) -> Sequence[LineFilter]:
        """None: each style is filtered once, instead of each line."""
        return ()

    def _selected(self, strip: Strip, y: int) -> Strip:
        span = self.text_selection.get_span(y) if self.text_selection else None
        if span is None:
            return strip
        length = strip.cell_length
        start, end = span[0], length if span[1] == -1 else min(span[1], length)
        if start >= end:
            return strip
        style = self._filtered(self.screen.get_component_rich_style("screen--selection"))
        return Strip.join([strip.crop(0, start), strip.crop(start, end).apply_style(style), strip.crop(end)])

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selection.extract("\n".join(text(line).rstrip() for line in self._lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self._redraw()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._roles, self._styles = {}, {}
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    def _redraw(self) -> None:
        self._strips.clear()
        self.refresh()
