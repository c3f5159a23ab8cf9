"""The smoke check of a rollout, made from what its file says; for the bank with tokens of the local keys."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from finflow.app import Config
    from finflow.verification.check import SmokeCheck
    from finflow.verification.spec import Spec

BANK: Final = "bank"
SMOKE: Final = "smoke"
_TOKEN_S: Final = 900


class Smoke(msgspec.Struct, frozen=True, kw_only=True):
    """`spec` is a file, or `bank` for the shipped one. `headers` have the ingress' override for testers.

    `tags` None means those tagged `smoke`, or all where none is.
    """

    spec: str
    base_url: str
    timeout_s: float = 120.0
    headers: Mapping[str, str] = {}
    tags: tuple[str, ...] | None = None
    name: str = "smoke"


def smoke_check(
    smoke: Smoke, config: "Config", folder: Path | None = None, environ: Mapping[str, str] | None = None
) -> "SmokeCheck":
    """The check that a controller asks. Relative files begin at `folder`.

    Raises file_unreadable and verification_malformed: a check that cannot be made stops a rollout's start.
    """
    from finflow.verification.check import SmokeCheck, SmokeSettings

    environ = os.environ if environ is None else environ
    bank = smoke.spec == BANK
    spec = _spec(smoke.spec, folder)
    tags = smoke.tags if smoke.tags is not None else _smoke_tags(spec)
    settings = SmokeSettings(
        spec=spec,
        url=smoke.base_url,
        tags=tags,
        headers=smoke.headers,
        environ=environ,
        timeout_s=smoke.timeout_s,
        passed_min=sum(not tags or bool(set(tags) & set(check.tags)) for check in spec.checks),
        name=smoke.name,
    )

    async def prepare() -> Mapping[str, str]:
        own = given_inputs(spec, environ)
        return {**await bank_inputs(smoke.base_url, config, environ), **own} if bank else own

    return SmokeCheck(settings, prepare)


def _spec(name: str, folder: Path | None) -> "Spec":
    from finflow.verification import loading

    if name == BANK:
        return loading.parse(loading.shipped(BANK), f"{BANK}.yaml")
    return loading.load((folder or Path()) / name)


def _smoke_tags(spec: "Spec") -> tuple[str, ...]:
    return (SMOKE,) if any(SMOKE in check.tags for check in spec.checks) else ()


def given_inputs(spec: "Spec", environ: Mapping[str, str]) -> Mapping[str, str]:
    """A spec's inputs that stand in the environment: NAME as FINFLOW_VERIFY_NAME, which no `ps` shows."""
    names = {name: f"FINFLOW_VERIFY_{name.upper()}" for name in spec.inputs}
    return {name: environ[variable] for name, variable in names.items() if environ.get(variable)}


async def bank_inputs(url: str, config: "Config", environ: Mapping[str, str]) -> Mapping[str, str]:
    """The inputs of the bank's spec: by FINFLOW_TOKEN, or with tokens signed by the local keys.

    Raises token_missing where nothing runs on the data folder, and what the API refuses.
    """
    from finflow.app.verifying import inputs_of_tenant, synthetic_tenant
    from finflow.client.tokens import StaticToken

    if token := environ.get("FINFLOW_TOKEN"):
        return await inputs_of_tenant(url, StaticToken(token))
    operator = StaticToken(_minted(config, None))
    tenant_id = await synthetic_tenant(url, operator)
    return await inputs_of_tenant(url, StaticToken(_minted(config, tenant_id)), operator, tenant_id)


def _minted(config: "Config", tenant_id: str | None) -> str:
    """A token of the FinFlow that runs on the data folder; the ingress' URL may be another than its own."""
    from finflow.identity.keys import KeyFolder, Keyring
    from finflow.identity.model import OPERATOR_SCOPES, SCOPES
    from finflow.identity.tokens import mint
    from finflow.stack.folder import DataFolder

    state = DataFolder(config.data).read_state()
    if state is None:
        raise FinFlowError("token_missing", f"FINFLOW_TOKEN is not set, and nothing runs on {config.data}.")
    now_s = time.time()
    return mint(
        Keyring(KeyFolder(Path(state.keys or config.keys_folder))).signing(now_s),
        issuer=config.issuer or state.issuer or state.url,
        subject="local",
        tenant_id=tenant_id,
        scopes=OPERATOR_SCOPES if tenant_id is None else SCOPES,
        now_s=now_s,
        ttl_s=_TOKEN_S,
    )
