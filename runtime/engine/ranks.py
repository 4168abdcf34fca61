"""The engine's sockets to one generation of ranks: a PUSH of plans to each, a PULL of results from all."""

from __future__ import annotations

from collections.abc import Iterator

import zmq

from runtime.engine.messages import Bind
from runtime.engine.plan import Halt, StepPlan, StepResult, decode_result, encode
from runtime.layout import Layout

RECONNECT_MS = 10  # libzmq looks for a rank that has not bound yet as often as this


class RankSockets:
    """Binds `results` at once, and connects to the ranks, which bind their own: a connecting PUSH keeps what a rank is not yet
    there to take, where a bound one would refuse it. Raises zmq.ZMQError when an endpoint cannot be used.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], bind: Bind) -> None:
        layout = Layout(**bind.layout)
        self.results = context.socket(zmq.PULL)
        self.results.rcvhwm = 0
        self.results.bind(bind.results)
        self._plans = []
        for endpoint in bind.plans:
            socket = context.socket(zmq.PUSH)
            socket.sndhwm = 0  # what is in flight is bounded by the scheduler
            socket.linger = 0
            socket.reconnect_ivl = RECONNECT_MS
            socket.connect(endpoint)
            self._plans.append(socket)
        size = layout.replica_size
        self._replicas = [self._plans[i : i + size] for i in range(0, len(self._plans), size)]

    def send(self, replica: int, plan: StepPlan) -> None:
        data = encode(plan)
        for socket in self._replicas[replica]:
            socket.send(data)

    def halt(self) -> None:
        """Tell every rank to end."""
        data = encode(Halt())
        for socket in self._plans:
            socket.send(data)

    def received(self) -> Iterator[StepResult]:
        """What has arrived."""
        while True:
            try:
                yield decode_result(self.results.recv(zmq.NOBLOCK))
            except zmq.Again:
                return

    def close(self, linger_ms: int = 0) -> None:
        for socket in (*self._plans, self.results):
            socket.close(linger=linger_ms)
