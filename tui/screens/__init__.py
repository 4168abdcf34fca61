"""One screen a file: each asks `tui.view` for lines and hands them to `tui.widgets`."""
