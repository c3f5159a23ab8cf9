"""`finflow settlement`: what it prints, in words and as JSON, and how it ends."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from finflow.cli.settlement import _cycles, _report, _timeline, settlement
from finflow.client.settlement import Cycle, NetPosition, PendingWork, Report, Step, Submission
from finflow.kernel.errors import FinFlowError
from oracles.iso20022 import Maker

_DATA = Path(__file__).parents[1] / "data" / "iso20022"
_PACS008 = _DATA / "CustomerCreditTransfer_Scenario1_Step1_pacs.008.xml"


def _run(*arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(settlement, arguments, input=given, standalone_mode=False)


def test_a_message_is_shown() -> None:
    told = _run("check", str(_PACS008))
    assert told.return_value == 0
    assert "message_id    20230604011104238Sc01Step1MsgId" in told.stdout
    assert "USD           1   51.74" in told.stdout


def test_a_message_as_json_counts_what_was_kept() -> None:
    told = json.loads(_run("check", str(_PACS008), "--json").stdout)
    assert told == {
        "message": "pacs.008.001.08",
        "message_id": "20230604011104238Sc01Step1MsgId",
        "created_at": "2023-06-04T10:55:26-04:00",
        "transactions": 1,
        # Room and PstBx of two addresses; type and date of the invoice that is paid.
        "kept": 4,
        "validated_by": "schema",
        "totals": [{"currency": "USD", "count": 1, "amount": "51.74"}],
    }


@pytest.mark.parametrize("before", ["\ufeff", "<!-- by hand -->\n", '<?xml version="1.0"?>\n'])
def test_a_message_comes_from_a_pipe_whatever_stands_before_it(before: str) -> None:
    told = _run("check", "-", "--json", given=before.encode() + _PACS008.read_bytes())
    assert json.loads(told.stdout)["transactions"] == 1


def test_a_statement_is_summed_by_direction() -> None:
    text = Maker("camt.053.001.08", 3, 0.5).document()
    told = json.loads(_run("check", "-", "--json", given=text.encode()).stdout)
    assert told["validated_by"] == "schema"
    assert told["transactions"] == text.count("<Ntry>")


def test_refusals_reach_the_command_line_as_errors() -> None:
    told = _run("check", "-", given=b"<!DOCTYPE x><Document/>")
    assert isinstance(told.exception, FinFlowError)
    assert told.exception.kind.code == "xml_forbidden"
    missing = _run("check", "no-such-file.xml")
    assert isinstance(missing.exception, FinFlowError)
    assert missing.exception.kind.code == "file_unreadable"


_LINES = b"""{"reference":"o1","payer":"A","payee":"B","currency":"SGD","amount_minor":10000}
{"reference":"o2","payer":"B","payee":"C","currency":"SGD","amount_minor":6000}
{"reference":"o3","payer":"C","payee":"A","currency":"SGD","amount_minor":2500}
"""


def test_obligations_are_netted_and_the_report_is_checked() -> None:
    told = _run("net", "-", given=_LINES)
    assert told.return_value == 0
    assert "A            SGD        100.00       25.00  -75.00" in told.stdout
    assert "The report agrees with the obligations" in told.stdout
    report = json.loads(_run("net", "-", "--json", given=_LINES).stdout)
    assert report["faults"] == []
    assert [each["net_minor"] for each in report["report"]["positions"]] == [-7500, 4000, 3500]


def test_a_line_that_is_no_obligation_is_named() -> None:
    told = _run("net", "-", given=_LINES + b"{}\n")
    assert isinstance(told.exception, FinFlowError)
    assert told.exception.detail.startswith("line 4")


def test_a_value_date_is_told() -> None:
    told = json.loads(_run("value-date", "EUR", "--at", "2026-04-02T17:00:00+02:00", "--json").stdout)
    assert told["value_date"] == "2026-04-07"
    assert _run("value-date", "EUR").return_value == 0
    for wrong in ("yesterday", "2026-04-02T17:00:00"):
        assert _run("value-date", "EUR", "--at", wrong).exception


_AT = datetime(2026, 6, 8, 9, 0, tzinfo=UTC)
_SUBMITTED = Cycle(
    "cyc_1", "led_1", "SGD", date(2026, 6, 8), _AT, _AT, "submitted",
    [Step("close", _AT, "2 orders", 0), Step("submit", _AT, "abc", 1)],
    [Submission(1, "BIFAST", "M1", 2, _AT, None, None)],
    PendingWork(_AT, 1, "rail_unavailable"),
)  # fmt: skip


def test_a_cycle_is_shown_with_its_timeline() -> None:
    assert _timeline(_SUBMITTED).splitlines() == [
        "cycle_id    cyc_1",
        "ledger_id   led_1",
        "currency    SGD",
        "value_date  2026-06-08",
        "cut_off_at  2026-06-08T09:00:00Z",
        "opened_at   2026-06-08T09:00:00Z",
        "state       submitted",
        "",
        "STEP    AT                    ATTEMPT  RESTS ON",
        "close   2026-06-08T09:00:00Z        -  2 orders",
        "submit  2026-06-08T09:00:00Z        1  abc",
        "",
        "ATTEMPT  RAIL    MESSAGE  ORDERS  VERDICT  DETAIL",
        "      1  BIFAST  M1            2  -        -",
        "",
        "It goes on at 2026-06-08T09:00:00Z; last time: rail_unavailable.",
    ]
    assert _cycles([_SUBMITTED]).splitlines()[1] == (
        "cyc_1  SGD       2026-06-08  2026-06-08T09:00:00Z  submitted"
    )


def test_a_netting_report_is_shown_with_its_verdict() -> None:
    positions = [NetPosition("ALFA", "10.00", "2.50", "-7.50", 2)]
    sound = Report("cyc_1", "SGD", "abc", 2, "12.50", "7.50", "5.00", 0.4, positions, [])
    shown = _report(sound)
    assert "ALFA           10.00        2.50  -7.50       2" in shown
    assert "saved_share  40.0%" in shown
    assert shown.endswith("The report agrees with the orders.")
    false = Report("cyc_1", "SGD", "abc", 2, "12.50", "7.50", "5.00", 0.4, positions, ["ALFA: 1 too much"])
    assert _report(false).endswith("ALFA: 1 too much")
