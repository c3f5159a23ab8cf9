"""Bodies that need not fit in memory: read into a temporary file, bounded, with their digest."""

import hashlib
import tempfile
from typing import Any, BinaryIO, Final, cast

from finflow.api.decoding import MIB, HttpRequest, drain, too_large
from finflow.kernel.errors import FinFlowError
from finflow.settlement.inbox import Spooled

MESSAGE_BODY_LIMIT: Final = 64 * MIB
_IN_MEMORY: Final = MIB


async def spooled(request: HttpRequest, limit: int = MESSAGE_BODY_LIMIT) -> Spooled:
    """The whole body in a file, which the caller closes. Raises request_too_large, and request_malformed for
    one that ends too early."""
    for name, value in request.scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            await drain(request)
            raise too_large(limit)
    file = cast("BinaryIO", tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 - handed on open
    try:
        return Spooled(file, await _fill(file, request, limit))
    except BaseException:
        file.close()
        raise


async def _fill(file: BinaryIO, request: HttpRequest, limit: int) -> bytes:
    digest, size = hashlib.sha256(), 0
    while True:
        message: Any = await request.receive()
        if message["type"] == "http.disconnect":
            raise FinFlowError("request_malformed", "The connection ended inside the body.")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            if message.get("more_body", False):
                await drain(request)
            raise too_large(limit)
        file.write(part)
        digest.update(part)
        if not message.get("more_body", False):
            return digest.digest()
