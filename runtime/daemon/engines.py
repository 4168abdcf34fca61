"""The engine processes of one deployment: one at a time, another when the last has ended."""

from __future__ import annotations

from collections.abc import Callable

from runtime.daemon.engine_link import EngineLink
from runtime.daemon.house import House
from runtime.engine.messages import Detach, EngineConfig
from runtime.protocol import Abort, Generate, Outputs
from runtime.spec import DeploymentSpec


class Engines:
    """`present`: the one that lives, or has just died; None before the first and after the last."""

    def __init__(
        self,
        spec: DeploymentSpec,
        number: int,
        house: House,
        on_outputs: Callable[[Outputs], None],
        on_change: Callable[[], None],
    ) -> None:
        """`number`: the deployment's."""
        self.present: EngineLink | None = None
        self._name, self._telemetry = spec.name, spec.telemetry
        self._house, self._number = house, number
        self._on_outputs, self._on_change = on_outputs, on_change
        self._count = 0

    async def living(self) -> EngineLink:
        """The present one, or a new one in its place. Raises OSError and zmq.ZMQError."""
        if self.present is None or not self.present.alive:
            old = self.present
            self._count += 1
            logs = self._house.logs / self._name
            logs.mkdir(parents=True, exist_ok=True)
            control = f"ipc://{self._house.sockets / f'{self._number}e{self._count}'}"
            telemetry = self._house.hub.endpoints.records if self._telemetry else ""
            config = EngineConfig(self._name, control, telemetry, log="")
            self.present = EngineLink(self._house.context, config, logs / "engine.log", self._on_outputs, self._on_change)
            if old is not None:
                await old.close()
        return self.present

    async def end(self) -> None:
        if self.present is not None:
            engine, self.present = self.present, None
            await engine.close()

    def send(self, message: Generate | Abort | Detach) -> None:
        """To the present one; nothing happens without one."""
        if self.present is not None:
            self.present.send(message)
