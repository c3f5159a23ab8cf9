"""Large messages: the same events as the whole message gives, in constant memory, with the same refusals."""

import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022 import messages, rules, streams
from finflow.settlement.iso20022.streams import Closed, Opened
from finflow.settlement.iso20022.transfers import CreditTransfer
from oracles.iso20022 import NAMES, Maker, canonical

_DATA = Path(__file__).parents[1] / "data" / "iso20022"
_PACS008 = (_DATA / "CustomerCreditTransfer_Scenario1_Step1_pacs.008.xml").read_bytes()
_PACS002 = (_DATA / "CustomerCreditTransfer_Scenario1_Step6_pacs.002.xml").read_bytes()
_START, _END = _PACS008.index(b"<CdtTrfTxInf>"), _PACS008.index(b"</FIToFICstmrCdtTrf>")
_TRANSFER = _PACS008[_START:_END]


class Trickle(io.BytesIO):
    """A file that gives a few bytes at a time, whatever is asked for."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._size)


def _many(count: int, change: Callable[[int, bytes], bytes] = lambda _, each: each) -> bytes:
    head = _PACS008[:_START].replace(b"<NbOfTxs>1<", b"<NbOfTxs>%d<" % count)
    return head + b"".join(change(number, _TRANSFER) for number in range(count)) + _PACS008[_END:]


def _code(data: bytes) -> str:
    with pytest.raises(FinFlowError) as refused:
        list(rules.checked(streams.read_stream(io.BytesIO(data))))
    return refused.value.kind.code


@pytest.mark.parametrize("name", NAMES[::4])
@pytest.mark.parametrize("size", [11, 1 << 16])
def test_a_stream_gives_what_the_whole_message_holds(name: str, size: int) -> None:
    text = Maker(name, 5, 0.4).document().encode()
    whole = messages.read(text)
    events = list(streams.read_stream(Trickle(text, size)))
    assert events == list(streams.events_of(whole))
    out = io.BytesIO()
    streams.write_stream(out, events)
    assert canonical(out.getvalue()) == canonical(text)


@pytest.mark.parametrize("data", [_PACS008, _PACS002])
def test_samples_stream(data: bytes) -> None:
    opened, unit, closed = streams.read_stream(Trickle(data, 7))
    assert isinstance(opened, Opened)
    assert isinstance(closed, Closed)
    out = io.BytesIO()
    streams.write_stream(out, [opened, unit, closed])
    # Where its author says that the schema lies is not part of a stream.
    bare = msgspec.structs.replace(messages.read(data), schema_location=None)
    assert canonical(out.getvalue()) == canonical(messages.write(bare))


def test_every_transfer_of_many_comes_once_and_in_order() -> None:
    data = _many(300, lambda number, each: each.replace(b"EtoEId001", b"EtoE%05d" % number))
    events = list(rules.checked(streams.read_stream(Trickle(data, 1000))))
    ids = [each.id.end_to_end_id for each in events if isinstance(each, CreditTransfer)]
    assert ids == [f"Scenario01EtoE{number:05}" for number in range(300)]


def test_a_fault_behind_good_transfers_is_found() -> None:
    def spoil(old: bytes, new: bytes) -> bytes:
        return _many(50, lambda number, each: each.replace(old, new) if number == 40 else each)

    assert _code(spoil(b"<InstrId>", b"<Own/><InstrId>")) == "message_invalid"
    assert _code(spoil(b"51.74<", b"51.745<")) == "amount_too_precise"
    assert _code(spoil(b"51.74<", b"0<")) == "amount_not_positive"
    assert _code(spoil(b"<PmtId>", b"<!DOCTYPE x><PmtId>")) == "xml_forbidden"
    assert _code(spoil(b"</CdtTrfTxInf>", b"</CdtTrfTxInf>stray")) == "message_invalid"
    assert _code(_many(50)[:-100]) == "xml_malformed"
    assert _code(_many(50).replace(b"<NbOfTxs>50<", b"<NbOfTxs>51<")) == "message_inconsistent"


@pytest.mark.parametrize(
    "fault",
    [
        b'<a xmlns:x=""/>',
        b'<a xmlns:x="urn:a b"/>',
        b"<x:a/>",
        b'<a x="1" x="2"/>',
        b"<a>&no;</a>",
        b"<a>]]></a>",
    ],
)
def test_faults_that_libxml2_can_go_on_after_are_found_with_a_schema_too(fault: bytes) -> None:
    own = b"<SplmtryData><Envlp>" + fault + b"</Envlp></SplmtryData>"
    data = _PACS008.replace(b"</CdtTrfTxInf>", own + b"</CdtTrfTxInf>")
    assert _code(data) == "xml_malformed"
    with pytest.raises(FinFlowError, match="xml_malformed"):
        messages.read(data)


_PIECES = (
    *(
        b"<",
        b">",
        b"/",
        b"&",
        b'"',
        b"<!--",
        b"-->",
        b"<![CDATA[",
        b"]]>",
        b"\x00",
        b"\xff",
        b"<a/>",
        b"stray",
    ),
    *(b'<x:y xmlns:x="u"/>', b' xsi:nil="true"', b"&#10;", b"&lt;", b"0", b"-"),
)


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """The data with one to three pieces put in, left out, changed or repeated."""
    text = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place, other = rng.randrange(len(text)), rng.randrange(len(text))
        change = rng.choice(("insert", "delete", "byte", "repeat"))
        if change == "insert":
            text[place:place] = rng.choice(_PIECES)
        elif change == "delete":
            del text[place : place + rng.randint(1, 30)]
        elif change == "byte":
            text[place] = rng.randrange(256)
        else:
            text[place:place] = text[other : other + rng.randint(1, 200)]
    return bytes(text)


def _outcome(read: Callable[[], list[streams.Event]]) -> list[streams.Event] | None:
    try:
        return read()
    except FinFlowError:
        return None


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_message_is_refused_or_taken_the_same_whole_and_streamed(seed: int) -> None:
    """Two parsers of libxml2 and two readers of ours agree on what is a message; neither ever breaks."""
    rng = random.Random(seed)  # noqa: S311 - drawn from a seed
    sources = [_PACS008, _PACS002, *(Maker(name, 1, 0.4).document().encode() for name in NAMES[::9])]
    taken = 0
    for _ in range(400):
        data = _mutated(rng.choice(sources), rng)
        whole = _outcome(lambda data=data: list(streams.events_of(messages.read(data))))
        assert _outcome(lambda data=data: list(streams.read_stream(io.BytesIO(data)))) == whole
        taken += whole is not None
    assert taken, "some damage is harmless"


def test_stray_text_is_found_without_a_schema_too() -> None:
    for place in (b"</TxInfAndSts>", b"</GrpHdr>", b"</FIToFIPmtStsRpt>"):
        assert _code(_PACS002.replace(place, place + b"stray")) == "message_invalid"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "xml_malformed"),
        (b"<Envelope>" + _PACS008 + b"</Envelope>", "message_unsupported"),
        (_PACS008.replace(b"pacs.008.001.08", b"pacs.009.001.08", 1), "message_unsupported"),
        (_PACS008.replace(b"FIToFICstmrCdtTrf", b"Other"), "message_invalid"),
        (_PACS002.replace(b"FIToFIPmtStsRpt", b"Other"), "message_invalid"),
        (_PACS008.decode().encode("utf-16"), "xml_forbidden"),
    ],
)
def test_refusals_of_a_stream(data: bytes, code: str) -> None:
    assert _code(data) == code


@pytest.mark.parametrize("place", [b"</GrpHdr>", b"</TxInfAndSts>"])
def test_an_element_that_only_looks_like_a_transaction_is_kept(place: bytes) -> None:
    """Of the same name, in another namespace, or inside of something that is not understood."""
    for own in (
        b'<x:TxInfAndSts xmlns:x="urn:example:own"><x:StsId>1</x:StsId></x:TxInfAndSts>',
        b"<Own><TxInfAndSts><StsId>1</StsId></TxInfAndSts></Own>",
    ):
        data = _PACS002.replace(place, place + own)
        events = list(streams.read_stream(Trickle(data, 50)))
        assert [type(each).__name__ for each in events] == ["Opened", "TransactionStatus", "Closed"]
        assert events == list(streams.events_of(messages.read(data)))


def test_what_is_nested_too_deep_is_refused() -> None:
    deep = b"<SplmtryData><Envlp>" + b"<a>" * 60 + b"</a>" * 60 + b"</Envlp></SplmtryData>"
    assert _code(_PACS008.replace(b"</CdtTrfTxInf>", deep + b"</CdtTrfTxInf>")) == "xml_too_large"
    assert _code(_PACS002.replace(b"</GrpHdr>", b"</GrpHdr>" + deep)) == "xml_too_large"
    assert _code(_PACS002.replace(b"</TxInfAndSts>", b"</TxInfAndSts>" + deep)) == "xml_too_large"


def test_two_bodies_are_refused() -> None:
    start, end = _PACS002.index(b"<FIToFIPmtStsRpt>"), _PACS002.index(b"</Document>")
    assert _code(_PACS002[:end] + _PACS002[start:end] + _PACS002[end:]) == "message_invalid"
    assert _code(_PACS002[:end] + b"<Own/>" + _PACS002[end:]) == "message_invalid"


def test_one_transaction_that_never_ends_is_refused() -> None:
    endless = b"<AddtlInf>x</AddtlInf>" * (streams.MAX_UNIT_BYTES // 20)
    data = _PACS002.replace(b"<TxSts>", b"<StsRsnInf>" + endless + b"</StsRsnInf><TxSts>")
    assert _code(data) == "xml_too_large"


def test_events_out_of_order_are_not_written() -> None:
    opened, unit, closed = streams.read_stream(io.BytesIO(_PACS008))
    for wrong in ([], [unit], [opened, unit], [opened, closed, unit]):
        with pytest.raises(FinFlowError, match="message_invalid"):
            streams.write_stream(io.BytesIO(), wrong)


def test_memory_does_not_grow_with_the_file() -> None:
    """The peak of a process that reads ten times as many transfers is the same, but for noise."""
    code = (
        "import io, resource, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from finflow.settlement.iso20022 import streams\n"
        f"head, one, tail = {_PACS008[:_START]!r}, {_TRANSFER!r}, {_PACS008[_END:]!r}\n"
        "class Made(io.RawIOBase):\n"
        "    def __init__(self, count):\n"
        "        self.parts = iter([head, *([one] * count), tail])\n"
        "    def read(self, size=-1):\n"
        "        return next(self.parts, b'')\n"
        "peaks = []\n"
        "for count in (500, 5000):\n"
        "    assert sum(1 for _ in streams.read_stream(Made(count))) == count + 2\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "print(peaks[1] - peaks[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-500:]
    # 5,000 transfers are 12 MB of text and would be some 100 MB of elements.
    assert int(done.stdout) < 4096, "kibibytes"
