"""A scripted source: the same second always gives the same snapshot. For tests, for `--source demo`, and for nothing else:
none of its figures was measured, which its name says on every screen.
"""

from tui.demo.source import DemoSource, deployment, script

__all__ = ["DemoSource", "deployment", "script"]
