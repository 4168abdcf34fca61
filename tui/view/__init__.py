"""Snapshot -> lines of text with roles. Pure, without Textual: the same lines serve the screen, a pipe and the tests."""
