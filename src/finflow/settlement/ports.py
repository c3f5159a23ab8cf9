"""What settlement needs of the outside: a rail that takes messages and gives answers. Two are shipped."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Incoming(NamedTuple):
    """A message that a rail has for us, under the name by which it is acknowledged."""

    name: str
    data: bytes


class Rail(Protocol):
    """A payment system outside. What is sent twice under one id and with one content is taken once."""

    async def send(self, message_id: str, data: bytes) -> None:
        """Hand a message over; returns when the rail has it. Raises rail_unavailable."""
        ...

    async def incoming(self, limit: int) -> Sequence[Incoming]:
        """Messages that were not acknowledged yet, oldest first. Raises rail_unavailable."""
        ...

    async def acknowledge(self, name: str, taken: bool) -> None:
        """A message was taken and its effect is durable; or (`taken` False) it was refused for good."""
        ...
