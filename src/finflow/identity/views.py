"""Clients and their keys as people and programs see them. Pure."""

from datetime import datetime

import msgspec


class KeyView(msgspec.Struct, frozen=True):
    """A public key of a client; `algorithm` is what its assertions are signed with."""

    kid: str
    algorithm: str
    created_at: datetime
    revoked_at: datetime | None


class ClientView(msgspec.Struct, frozen=True):
    """A program that may ask for access tokens; without a tenant it works for the platform's operator."""

    client_id: str
    tenant_id: str | None
    name: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None
    keys: list[KeyView]


class TokenView(msgspec.Struct, frozen=True):
    """The answer of the token endpoint (RFC 6749, section 5.1); `expires_in` counts seconds."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str
