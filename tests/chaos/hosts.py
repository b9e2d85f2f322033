"""Hosts of their own for the parties of a federation, and cables that can be pulled.

Each host is a network namespace with one virtual cable to a bridge on this machine, where the
coordinator runs. A cable that is pulled loses packets without a word, as a broken switch or a
firewall does: no connection is closed and no refusal comes back.

It needs root and `ip` (iproute2). Everything it makes has its own prefix and is removed again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self


class Hosts:
    """Network namespaces on one bridge; a context manager.

    Args:
        names: Hosts to make, at most 200.
        number: Of the network `10.213.<number>.0/24`, 0 to 255.
    """

    def __init__(self, names: Sequence[str], number: int | None = None) -> None:
        self._names = tuple(names)
        self._number = os.getpid() % 256 if number is None else number
        self._bridge = f"fdb{self._number}"

    @property
    def gateway(self) -> str:
        """Address of this machine on the bridge."""
        return f"10.213.{self._number}.1"

    def address(self, name: str) -> str:
        """Address of a host."""
        return f"10.213.{self._number}.{10 + self._names.index(name)}"

    def prefix(self, name: str) -> tuple[str, ...]:
        """What runs a command on a host; nothing for who has none."""
        return ("ip", "netns", "exec", self._space(name)) if name in self._names else ()

    def cut(self, name: str) -> None:
        """Pull a host's cable."""
        self._ip("link", "set", self._cable(name), "down")

    def heal(self, name: str) -> None:
        """Put it back."""
        self._ip("link", "set", self._cable(name), "up")

    def __enter__(self) -> Self:
        try:
            self._ip("link", "add", self._bridge, "type", "bridge")
            self._ip("address", "add", f"{self.gateway}/24", "dev", self._bridge)
            self._ip("link", "set", self._bridge, "up")
            for name in self._names:
                self._make(name)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _make(self, name: str) -> None:
        space, cable = self._space(name), self._cable(name)
        self._ip("netns", "add", space)
        self._ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._ip("link", "set", cable, "master", self._bridge)
        self._ip("link", "set", cable, "up")
        self._ip("-n", space, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
        self._ip("-n", space, "link", "set", "eth0", "up")
        self._ip("-n", space, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for name in self._names:
            self._ip("netns", "del", self._space(name), check=False)
            self._ip("link", "del", self._cable(name), check=False)
        self._ip("link", "del", self._bridge, check=False)

    def _space(self, name: str) -> str:
        return f"{self._bridge}-{name}"

    def _cable(self, name: str) -> str:
        # Names of links have at most 15 characters.
        return f"{self._bridge}v{self._names.index(name)}"

    @staticmethod
    def _ip(*arguments: str, check: bool = True) -> None:
        subprocess.run(["ip", *arguments], check=check, capture_output=True)
