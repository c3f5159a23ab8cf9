"""The documentation page: Swagger UI from files of this package, so it works without any network.

The files in docs_ui come from the npm package swagger-ui-dist 5.35.0 (Apache-2.0, see LICENSE and NOTICE
beside them), unchanged but for being compressed; index.html and init.js are ours.
"""

import gzip
from functools import lru_cache
from importlib.resources import files
from typing import Final

from litestar import get
from litestar.params import FromPath

from finflow.api.answers import Answer, Header
from finflow.api.decoding import HttpRequest, Query
from finflow.api.listings import accepts_gzip
from finflow.api.schemas import NoQuery
from finflow.kernel.errors import FinFlowError

_FOLDER: Final = files("finflow.api") / "docs_ui"
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_VARY: Final = (b"vary", b"accept-encoding")
_GZIP: Final = (b"content-encoding", b"gzip")
_KEPT_A_DAY: Final = (b"cache-control", b"public, max-age=86400")
# Scripts, styles and requests of this origin alone, none of them inside the page; nobody may frame it.
_POLICY: Final = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
_TYPES: Final[dict[str, Header]] = {
    "swagger-ui-bundle.js": (b"content-type", b"text/javascript; charset=utf-8"),
    "swagger-ui.css": (b"content-type", b"text/css; charset=utf-8"),
    "init.js": (b"content-type", b"text/javascript; charset=utf-8"),
}
_NOTHING: Final = Query(NoQuery)


@get("/docs", opt={"scope": "open"}, include_in_schema=False)
async def docs_page(request: HttpRequest) -> Answer:
    _NOTHING.read(request)
    return Answer(200, (_FOLDER / "index.html").read_bytes(), (_HTML, _POLICY))


@get("/docs/{name:str}", opt={"scope": "open"}, include_in_schema=False)
async def docs_file(request: HttpRequest, name: FromPath[str]) -> Answer:
    content_type = _TYPES.get(name)
    if content_type is None:
        raise FinFlowError("route_unknown")
    packed = _packed(name)
    answer = Answer(200, packed, (content_type, _VARY, _GZIP, _POLICY))
    if not accepts_gzip(request):
        answer = Answer(200, gzip.decompress(packed), (content_type, _VARY, _POLICY))
    answer.cache = _KEPT_A_DAY
    return answer


@lru_cache
def _packed(name: str) -> bytes:
    whole = _FOLDER / name
    return (
        gzip.compress(whole.read_bytes(), mtime=0)
        if whole.is_file()
        else (_FOLDER / f"{name}.gz").read_bytes()
    )
