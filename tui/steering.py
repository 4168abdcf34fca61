"""Orders to the daemon, each carried out by a thread with a client of its own; what comes of it arrives as messages.

The screen never waits. The daemon does not need us once it has the order: to quit the dashboard changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.dom import DOMNode
from textual.message import Message
from textual.worker import get_current_worker

from tui.keys import STEER
from tui.session import Session

if TYPE_CHECKING:
    from profiles.report import RecordingReport
    from runtime.client import ControlClient
    from runtime.control import Begun, Changed, Progress

    News = Progress | Changed | Begun | RecordingReport
    Call = Callable[[ControlClient], Iterator[News]]


@dataclass(frozen=True)
class Order:
    """`verb`: "deploy", "reconfigure", "stop", "record" or "stop recording"; `name`: the deployment's."""

    verb: str
    name: str

    def __str__(self) -> str:
        return f"{self.verb} {self.name}"


class Told(Message):
    """News of an order, for the node that gave it and those above it. `over`: nothing more comes; with an `error` it failed,
    and `usage` says that nothing was tried."""

    def __init__(self, order: Order, news: News | None = None, error: str = "", usage: bool = False, over: bool = False) -> None:
        super().__init__()
        self.order, self.news, self.error, self.usage, self.over = order, news, error, usage, over


def refusal(session: Session) -> str:
    """Why nothing can be ordered from here; empty when it can."""
    return session.obstacle(STEER)


class Steering:
    """Gives orders on behalf of `node`, a screen or the app, which gets a `Told` for all that comes of them.

    The same order again replaces the wait for the first: the daemon says what it makes of the second.
    """

    def __init__(self, node: DOMNode, run_dir: Path) -> None:
        self._node, self._run_dir = node, run_dir

    def deploy(self, fields: Mapping[str, Any]) -> Order:
        """`fields` of a `DeploymentSpec`, its name among them."""

        def call(client: ControlClient) -> Iterator[News]:
            from runtime.spec import DeploymentSpec

            yield from client.deploy(DeploymentSpec.model_validate(fields))

        return self._order("deploy", fields["name"], call)

    def reconfigure(self, name: str, fields: Mapping[str, Any]) -> Order:
        """`fields`: those that change."""
        return self._order("reconfigure", name, lambda client: client.reconfigure(name, dict(fields)))

    def stop(self, name: str, now: bool = False) -> Order:
        """Drain and stop it; `now`: without the drain."""

        def call(client: ControlClient) -> Iterator[News]:
            client.stop(name, now)
            yield from ()

        return self._order("stop", name, call)

    def record(self, name: str, path: Path, seconds: float | None = None) -> Order:
        """Told that it has begun, then how it ended, whoever ended it."""
        return self._order("record", name, lambda client: client.record(name, path, seconds))

    def stop_recording(self, name: str) -> Order:
        def call(client: ControlClient) -> Iterator[News]:
            yield client.stop_recording(name)

        return self._order("stop recording", name, call)

    def _order(self, verb: str, name: str, call: Call) -> Order:
        order = Order(verb, name)
        self._node.run_worker(partial(self._carry_out, order, call), group=str(order), exclusive=True, thread=True)
        return order

    def _carry_out(self, order: Order, call: Call) -> None:
        from runtime.client import ControlClient, DaemonError, GivenUp

        worker = get_current_worker()

        def tell(news: News | None = None, **end: Any) -> None:
            if not worker.is_cancelled:
                self._node.post_message(Told(order, news, **end))

        try:
            with ControlClient(self._run_dir, lambda: worker.is_cancelled) as client:
                for news in call(client):
                    tell(news)
        except GivenUp:
            return
        except DaemonError as error:
            tell(error=str(error), usage=error.usage, over=True)
        except Exception as error:  # whatever it is, the screen says it and stays
            tell(error=f"{type(error).__name__}: {error}", over=True)
        else:
            tell(over=True)
