"""Words over several lines."""

from __future__ import annotations

import textwrap


def wrapped(text: str, columns: int, limit: int) -> list[str]:
    """At most `limit` lines of `columns` cells, the last with a sign that more was said."""
    if not text or limit < 1:
        return []
    columns = max(1, columns)
    placeholder = " ..." if columns > 4 else ""
    return textwrap.wrap(text, columns, max_lines=limit, placeholder=placeholder, break_on_hyphens=False) or [""]
