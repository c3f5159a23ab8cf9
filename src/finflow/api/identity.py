"""Who asks. The one place where callers get their names."""

from typing import Any

LOCAL = "local"


def caller_of(request: Any) -> str:
    """The name that the journal keeps beside every command of this request.

    Until tokens exist the interface listens on loopback only, and everybody there is `local`. The check
    of a bearer token belongs here: it answers the token's subject, or raises an error of the catalogue.
    """
    return LOCAL
