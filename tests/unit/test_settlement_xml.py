"""XML from strangers: every attack has a code, nothing expands, nothing is fetched, nothing is lost."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022 import messages, streams, xml

_DATA = Path(__file__).parents[1] / "data" / "iso20022"
_TEXT = (_DATA / "CustomerCreditTransfer_Scenario1_Step1_pacs.008.xml").read_text()
_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    + '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


def _nested(levels: int) -> str:
    return "<SplmtryData><Envlp>" + "<a>" * levels + "</a>" * levels + "</Envlp></SplmtryData>"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ((_LAUGHS + _TEXT.replace("Individual A", "&c;")).encode(), "xml_forbidden"),
        (('<!DOCTYPE x SYSTEM "file:///etc/passwd">' + _TEXT).encode(), "xml_forbidden"),
        (('<!DOCTYPE x [<!ENTITY e SYSTEM "http://127.0.0.1:9/x">]>' + _TEXT).encode(), "xml_forbidden"),
        (('<?xml version="1.0"?>\n<!DOCTYPE x []>' + _TEXT).encode(), "xml_forbidden"),
        (('<?xml-stylesheet href="http://127.0.0.1:9/x"?>' + _TEXT).encode(), "xml_forbidden"),
        (_TEXT.replace("<GrpHdr>", "<?php x ?><GrpHdr>").encode(), "xml_forbidden"),
        (_TEXT.encode("utf-16"), "xml_forbidden"),
        (_TEXT.encode("utf-32"), "xml_forbidden"),
        (('<?xml version="1.0" encoding="UTF-7"?>' + _TEXT).encode(), "xml_forbidden"),
        (('<?xml version="1.0" encoding="ISO-8859-1"?>' + _TEXT).encode("latin-1"), "xml_forbidden"),
        (_TEXT.replace("Individual A", "Individual \x00").encode(), "xml_forbidden"),
        (_TEXT.replace("Individual A", "&unknown;").encode(), "xml_malformed"),
        (_TEXT.replace("Individual A", "J\xfcrgen").encode("latin-1"), "xml_malformed"),
        (_TEXT.replace("Individual A", "bell \x07").encode(), "xml_malformed"),
        (_TEXT.replace("Individual A", "&#0;").encode(), "xml_malformed"),
        (_TEXT.encode()[:-20], "xml_malformed"),
        (_TEXT.encode() + b"<More/>", "xml_malformed"),
        (b"", "xml_malformed"),
        (b"\xff\xfe", "xml_malformed"),
        (_TEXT.replace('Ccy="USD"', 'Ccy="USD" Ccy="EUR"').encode(), "xml_malformed"),
        (b" " * (xml.MAX_MESSAGE_BYTES + 1), "xml_too_large"),
        (_TEXT.replace("</CdtTrfTxInf>", _nested(60) + "</CdtTrfTxInf>").encode(), "xml_too_large"),
        (_TEXT.replace("</CdtTrfTxInf>", _nested(5000) + "</CdtTrfTxInf>").encode(), "xml_malformed"),
        (
            _TEXT.replace(
                "</CdtTrfTxInf>",
                "<SplmtryData><Envlp><a "
                + " ".join(f'n{number}="1"' for number in range(17))
                + "/></Envlp></SplmtryData></CdtTrfTxInf>",
            ).encode(),
            "xml_too_large",
        ),
    ],
)
def test_attacks_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(FinFlowError) as refused:
        messages.read(data)
    assert refused.value.kind.code == code


def test_nobody_goes_where_a_message_says_that_its_schema_lies(tmp_path: Path) -> None:
    """A schema that the message brings along would refuse the text; it is not even opened."""
    (tmp_path / "own.xsd").write_text(
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:own">'
        '<xs:element name="x" type="xs:integer"/></xs:schema>'
    )
    own = '<SplmtryData><Envlp><x xmlns="urn:own">no integer</x></Envlp></SplmtryData></CdtTrfTxInf>'
    for place in (f"{tmp_path}/own.xsd", (tmp_path / "own.xsd").as_uri()):
        text = _TEXT.replace("</CdtTrfTxInf>", own)
        text = text.replace('xsi:schemaLocation="', f'xsi:schemaLocation="urn:own {place} ')
        messages.read(text.encode())
        list(streams.read_stream(io.BytesIO(text.encode())))


def test_utf8_with_a_declaration_and_a_mark_is_fine() -> None:
    plain = messages.read(_TEXT.encode())
    for start in (b"\xef\xbb\xbf", b'<?xml version="1.0" encoding="utf-8"?>', b"<?xml version='1.0'?>\n"):
        assert messages.read(start + _TEXT.encode()).body == plain.body


def test_a_comment_inside_a_text_does_not_cut_it() -> None:
    """A parser that reads only up to the comment would see another payee than its neighbour."""
    commented = _TEXT.replace("Corporation B", "Corporation<!-- x --> B")
    assert messages.read(commented.encode()).body == messages.read(_TEXT.encode()).body


def test_cdata_is_text() -> None:
    wrapped = _TEXT.replace("Corporation B", "<![CDATA[Corporation B]]>")
    assert messages.read(wrapped.encode()).body == messages.read(_TEXT.encode()).body


def test_a_forbidden_mark_is_found_however_a_stream_is_cut() -> None:
    data = (_TEXT[:400] + "<!DOCTYPE x>" + _TEXT[400:]).encode()
    for size in (1, 2, 3, 7, 64):
        with pytest.raises(FinFlowError, match="xml_forbidden"):
            _check_in_chunks(data, size)


def test_a_message_of_the_largest_size_stays_within_memory() -> None:
    """The worst text for its size, tiny elements, in a process that may take 1 GiB and no more."""
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from finflow.kernel.errors import FinFlowError\n"
        "from finflow.settlement.iso20022 import messages, streams, xml\n"
        "body = b'<a/>' * ((xml.MAX_MESSAGE_BYTES - 200) // 4)\n"
        "head = b'<Document xmlns=\"urn:iso:std:iso:20022:tech:xsd:pacs.008.001.08\">'\n"
        "try:\n"
        "    messages.read(head + body + b'</Document>')\n"
        "except FinFlowError as error:\n"
        "    print(error.kind.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "message_invalid", done.stderr[-500:]


def _check_in_chunks(data: bytes, size: int) -> None:
    gate = xml.Gate()
    gate.check(data[:300])
    for start in range(300, len(data), size):
        gate.check(data[start : start + size])
