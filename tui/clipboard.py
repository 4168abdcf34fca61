"""What of a text a terminal takes into the clipboard through OSC 52."""

MOST_BYTES = 74_994  # hterm's limit of 100,000 bytes a sequence, less its head, before base64; others take as much or more


def clipped(text: str) -> tuple[str, bool]:
    """As many whole lines as fit, and whether that is all."""
    raw = text.encode()
    if len(raw) <= MOST_BYTES:
        return text, True
    return raw[: raw.rfind(b"\n", 0, MOST_BYTES) + 1].decode(), False
