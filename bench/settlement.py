"""Settlement: payment messages read a second, and the time to net a hundred thousand obligations.

`python -m bench.settlement [--json] [--keep] [--short]`. One process, one core. A message is parsed,
validated against its schema, turned into typed values, checked for contradictions and for duplicates; the
share of each is measured in the same run. Netting includes the report and its digest; checking the report
against the obligations is timed beside it. `cycle_100k_s` is a whole cycle on a durable server: 100,000
orders from acceptance in batches to settled; short runs scale it up from fewer orders. Audits are asked over
HTTP by wrk: see bench/audits.py.
"""

import sys

if not __package__:
    # Run as a file, Python looks into this folder first, where http.py would stand for the library's http.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import asyncio
import io
import random
import shutil
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import audits
from bench.ground import durable_database, ledgers, median, report
from finflow.settlement import duplicates
from finflow.settlement.duplicates import MessageKey, Seen
from finflow.settlement.iso20022 import messages, rules, schemas, streams, xml
from finflow.settlement.iso20022.transfers import CreditTransfers
from finflow.settlement.netting import Obligation, faults_against, net
from finflow.settlement.orders import OrderDraft
from finflow.settlement.register import NewParticipant
from finflow.settlement.service import SettlementService
from finflow.settlement.worker import Worker

SEED = 20022
_SAMPLE = (
    Path(__file__).parents[1] / "tests/data/iso20022/CustomerCreditTransfer_Scenario1_Step1_pacs.008.xml"
)
_MESSAGE_ID = b"20230604011104238Sc01Step1MsgId"
_UETR = b"8a562c67-ca16-48ba-b074-65581be6f011"


def made_messages(count: int, rng: random.Random) -> list[bytes]:
    """Copies of the sample, each with a message id, an amount and a UETR of its own."""
    sample = _SAMPLE.read_bytes()
    return [
        sample.replace(_MESSAGE_ID, b"M%030d" % number)
        .replace(_UETR, str(uuid.UUID(int=rng.getrandbits(128), version=4)).encode())
        .replace(b">51.74<", b">%d.%02d<" % (rng.randint(1, 99_999), rng.randint(0, 99)))
        for number in range(count)
    ]


def take_all(files: list[bytes]) -> int:
    """What accepting a message does before it goes to the ledger; the number of transfers taken."""
    digests: dict[MessageKey, bytes] = {}
    uetrs: dict[tuple[str, str], MessageKey] = {}
    taken = 0
    for data in files:
        message = messages.read(data)
        rules.check(message)
        body = message.body
        assert isinstance(body, CreditTransfers)
        key = MessageKey("BANKA", message.kind, body.header.message_id)
        named = [each.id.uetr for each in body.transfers if each.id.uetr is not None]
        content = duplicates.digest(data)
        assert duplicates.decide(Seen(digests, uetrs), key, content, named) == "new"
        digests[key] = content
        uetrs.update({(message.kind, each): key for each in named})
        taken += len(named)
    assert taken == len(files), "every message has one transfer with its UETR"
    return taken


def validate_all(files: list[bytes]) -> int:
    """Parsing and the schema alone."""
    schema = schemas.schema_of("pacs.008.001.08")
    assert schema is not None
    for data in files:
        schemas.validate(xml.parse(data), schema)
    return len(files)


def stream_one(transfers: int) -> int:
    """One message of many transfers, as a stream."""
    sample = _SAMPLE.read_bytes()
    start, end = sample.index(b"<CdtTrfTxInf>"), sample.index(b"</FIToFICstmrCdtTrf>")
    head = sample[:start].replace(b"<NbOfTxs>1<", b"<NbOfTxs>%d<" % transfers)
    file = io.BytesIO(head + sample[start:end] * transfers + sample[end:])
    events = sum(1 for _ in rules.checked(streams.read_stream(file)))
    assert events == transfers + 2
    return transfers


def made_obligations(count: int, rng: random.Random) -> list[Obligation]:
    banks = [f"BANK{number:02}SG" for number in range(50)]
    found = []
    for number in range(count):
        payer, payee = rng.sample(banks, 2)
        currency = rng.choice(["SGD", "USD", "IDR", "THB", "VND"])
        found.append(Obligation(f"ord_{number:08}", payer, payee, currency, rng.randint(1, 10**9)))
    return found


def seconds(
    work: Callable[[], Any], rounds: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The median time of a few rounds. `time.process_time` leaves out what other processes took."""
    times = []
    for _ in range(rounds):
        start = clock()
        work()
        times.append(clock() - start)
    return median(times)


def measure(count: int, obligations: int) -> dict[str, Any]:
    rng = random.Random(SEED)
    files = made_messages(count, rng)
    validate_all(files[:10])
    gross = made_obligations(obligations, rng)
    netted = net(gross)
    assert faults_against(netted, gross) == []
    saved = [each.saved_share for each in netted.totals]
    return {
        "pacs008_messages": count,
        "pacs008_per_s": round(count / seconds(lambda: take_all(files))),
        "pacs008_per_cpu_s": round(count / seconds(lambda: take_all(files), clock=time.process_time)),
        "pacs008_parsed_and_validated_per_s": round(count / seconds(lambda: validate_all(files))),
        "pacs008_streamed_transfers_per_s": round(count / seconds(lambda: stream_one(count))),
        "netting_obligations": obligations,
        "netting_100k_s": round(seconds(lambda: net(gross)) * 100_000 / obligations, 3),
        "netting_check_100k_s": round(
            seconds(lambda: faults_against(netted, gross)) * 100_000 / obligations, 3
        ),
        "netting_saved_share": round(sum(saved) / len(saved), 4),
    }


async def settle_cycle(count: int) -> dict[str, Any]:
    """One cycle of `count` orders between 50 members, from the first batch's acceptance to settled.

    On a durable server of its own: batches of 10,000, three at a time; then the cut-off passes, and a worker
    closes the cycle, nets it, holds and posts the net positions, and posts every order.
    """
    at = int(datetime(2026, 6, 8, 1, tzinfo=UTC).timestamp()) * 1_000_000
    moments = [at]

    def clock() -> int:
        return moments[0]

    async with durable_database() as url, ledgers(url, 8, clock) as (service, pool):
        room = SettlementService(pool, service, clock)
        tenant = service.of((await service.create_tenant("bench")).tenant_id)
        opened = await tenant.create_ledger("bench")
        settlement = room.of(tenant)
        members = [f"BANK{number:02}SG" for number in range(50)]
        for name in members:
            new = NewParticipant(name, "member", ["SGD"], overdraft_limit=None)
            await settlement.add_participant(opened.ledger_id, new)
        rng = random.Random(SEED)
        drafts = [
            OrderDraft(*rng.sample(members, 2), "SGD", f"{rng.randint(1, 99_999)}.25", f"E{number}")
            for number in range(count)
        ]
        worker = Worker(room)
        start = time.perf_counter()
        taken = await asyncio.gather(
            *(
                settlement.accept(opened.ledger_id, drafts[first : first + 10_000], f"batch-{first}")
                for first in range(0, count, 10_000)
            )
        )
        accepted_s = time.perf_counter() - start
        assert all(each.code is None for batch in taken for each in batch), "every order is held"
        moments[0] += 10 * 3_600_000_000
        await worker.until_idle()
        total_s = time.perf_counter() - start
        cycle = await settlement.cycle(taken[0][0].cycle_id or "")
        assert cycle.state == "settled", cycle
        seen = await settlement.report(cycle.cycle_id)
        assert (seen.faults, seen.obligations) == ([], count)
    return {
        "cycle_orders": count,
        "cycle_accepted_per_s": round(count / accepted_s),
        "cycle_settled_per_s": round(count / (total_s - accepted_s)),
        "cycle_100k_s": round(total_s * 100_000 / count, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="few messages: shows that it runs")
    options = parser.parse_args()
    figures = measure(*((200, 10_000) if options.short else (5_000, 100_000)))
    figures |= asyncio.run(settle_cycle(10_000 if options.short else 100_000))
    if shutil.which("wrk") is None:
        figures["audits_skipped"] = "wrk is not installed"
    else:
        figures |= asyncio.run(audits.measure(*((2_000, 3) if options.short else (1_000_000, 15))))
    report("settlement", figures, seed=SEED, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
