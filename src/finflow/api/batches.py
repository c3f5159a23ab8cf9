"""Many transactions in one request, as one JSON body or as lines, each with its own outcome."""

from typing import Final

from litestar import post

from finflow.api.answers import Answer, ok
from finflow.api.decoding import (
    BATCH_BODY_LIMIT,
    Body,
    HttpRequest,
    Query,
    check_moment,
    media_type_of,
    read_body,
)
from finflow.api.idempotency import given_key, member_key
from finflow.api.identity import caller_of
from finflow.api.measured import name_tenant
from finflow.api.schemas import MAX_BATCH, BatchMember, BatchQuery, BatchResult, MemberResult, NewBatch
from finflow.api.state import ledger_of
from finflow.kernel import ids
from finflow.kernel.errors import CATALOGUE, FinFlowError
from finflow.ledger.book import Record
from finflow.ledger.commands import Request

NDJSON: Final = b"application/x-ndjson"

_BATCH: Final = Body(NewBatch, BATCH_BODY_LIMIT)
_MEMBER: Final = Body(BatchMember)
_QUERY: Final = Query(BatchQuery)


@post(
    "/v1/transactions:batch",
    status_code=200,
    opt={
        "takes": NewBatch,
        "lines": BatchMember,
        "query": BatchQuery,
        "gives": BatchResult,
        "key": "optional",
    },
    summary="Post up to 10,000 transactions",
)
async def post_batch(request: HttpRequest) -> Answer:
    header, query = given_key(request), _QUERY.read(request)
    read = _read_lines if media_type_of(request) == NDJSON else _read
    batch = await read(request, query)
    if not batch.transactions:
        raise FinFlowError("batch_empty", param="transactions")
    if len(batch.transactions) > MAX_BATCH:
        raise FinFlowError("batch_too_large", param="transactions")
    requests = _requests(request, batch.transactions, header)
    await name_tenant(request, batch.ledger_id)
    records = await ledger_of(request).submit(batch.ledger_id, requests, batch.atomic)
    return ok(_result(batch.ledger_id, records))


async def _read(request: HttpRequest, query: BatchQuery) -> NewBatch:
    if query != BatchQuery():
        raise FinFlowError(
            "request_malformed",
            "A JSON batch names its ledger and `atomic` in its body, not in the query.",
            "ledger_id",
        )
    return await _BATCH.read(request)


async def _read_lines(request: HttpRequest, query: BatchQuery) -> NewBatch:
    if query.ledger_id is None:
        raise FinFlowError(
            "request_malformed", "A batch of lines names its ledger in the query.", "ledger_id"
        )
    raw = await read_body(request, BATCH_BODY_LIMIT)
    members: list[BatchMember] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            members.append(_read_line(number, line))
        if len(members) > MAX_BATCH:
            break
    return NewBatch(query.ledger_id, members, query.atomic)


def _read_line(number: int, line: bytes) -> BatchMember:
    try:
        return _MEMBER.decode(line)
    except FinFlowError as error:
        place = f"line {number}" if error.param is None else f"line {number}: {error.param}"
        raise FinFlowError(error.kind.code, f"Line {number}: {error.detail}", place) from error


def _requests(request: HttpRequest, members: list[BatchMember], header: str | None) -> list[Request]:
    caller = caller_of(request)
    requests: list[Request] = []
    for index, member in enumerate(members):
        key = member_key(member.idempotency_key, header, index)
        if member.effective_at is not None:
            check_moment(member.effective_at, f"transactions[{index}].effective_at")
        if member.timeout_s is not None and not member.pending:
            raise FinFlowError(
                "request_malformed",
                "Only a pending transaction has a timeout.",
                f"transactions[{index}].timeout_s",
            )
        requests.append(Request(key, member.command(), caller))
    return requests


def _result(ledger_id: str, records: list[Record]) -> BatchResult:
    place = ids.parse("led", ledger_id)
    assert place is not None, "the ledger took the batch"
    results = [_member_result(place.ledger_no, record) for record in records]
    replayed = sum(result.replayed for result in results)
    posted = sum(result.code is None and not result.replayed for result in results)
    return BatchResult(posted, len(results) - posted - replayed, replayed, results)


def _member_result(ledger_no: int, record: Record) -> MemberResult:
    if record.code is None:
        transaction_id = record.transaction_id(ledger_no)
        return MemberResult(record.key, 201, record.replayed, transaction_id, record.seq)
    kind = CATALOGUE[record.code]
    return MemberResult(
        record.key, kind.status, record.replayed, code=kind.code, detail=kind.title, param=record.param
    )
