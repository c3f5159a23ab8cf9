"""Takes secrets out of text before it is shown: passwords in URLs, wherever in the text a URL stands."""

import re
from typing import Final

MASK: Final = "***"

# scheme://user:password@host — the password may hold anything but white space, and the last @ ends it.
_USERINFO = re.compile(
    r"(?P<head>[a-zA-Z][a-zA-Z0-9+.\-]*://[^\s:/@?#]*):(?P<secret>[^\s]*?)@(?=[^\s@]*(?:\s|$))"
)
# ...?password=secret&... — libpq takes the password as a parameter too.
_PARAMETER = re.compile(r"(?P<head>[?&](?:password|passfile|sslpassword)=)[^\s&#]*", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with every password in every URL replaced by `***`."""
    masked = _USERINFO.sub(rf"\g<head>:{MASK}@", text)
    return _PARAMETER.sub(rf"\g<head>{MASK}", masked)
