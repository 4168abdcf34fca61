"""The dashboard: a terminal that shows what each rank does. It reads a `Source`, draws a `Snapshot`, and owns nothing."""
