"""Takes secrets out of text before it is shown: passwords in URLs and signed tokens, wherever they stand."""

import re
from typing import Final

MASK: Final = "***"

# scheme://user:password@host — the password may hold anything but white space, and the last @ ends it.
_USERINFO = re.compile(
    r"(?P<head>[a-zA-Z][a-zA-Z0-9+.\-]*://[^\s:/@?#]*):(?P<secret>[^\s]*?)@(?=[^\s@]*(?:\s|$))"
)
# ...?password=secret&... — libpq takes the password as a parameter too.
_PARAMETER = re.compile(r"(?P<head>[?&](?:password|passfile|sslpassword)=)[^\s&#]*", re.IGNORECASE)

# A JSON Web Token begins with `{"` in base64url; its claims and its signature follow.
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?")


def redact(text: str) -> str:
    """The text with every password in every URL, and every token, replaced by `***`."""
    masked = _USERINFO.sub(rf"\g<head>:{MASK}@", text)
    masked = _PARAMETER.sub(rf"\g<head>{MASK}", masked)
    return _TOKEN.sub(MASK, masked)
