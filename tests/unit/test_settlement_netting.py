"""Netting: against an oracle that settles every obligation by itself, and reports that were tampered with."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.kernel.errors import FinFlowError
from finflow.settlement.netting import (
    NettingReport,
    Obligation,
    Position,
    digest_of,
    faults_against,
    faults_of,
    faults_of_participant,
    net,
)

_NAMES = ["BANKSGSG", "BANKTHBK", "BANKIDJA", "BANKVNVX", "BANKPHMM"]


_PAIRS = [(payer, payee) for payer in _NAMES for payee in _NAMES if payer != payee]


def obligations() -> st.SearchStrategy[list[Obligation]]:
    rows = st.tuples(st.sampled_from(_PAIRS), st.sampled_from(["SGD", "JPY", "KWD"]), st.integers(1, 10**15))
    return st.lists(rows, max_size=30).map(
        lambda found: [
            Obligation(f"o{number}", *pair, currency, amount)
            for number, (pair, currency, amount) in enumerate(found)
        ]
    )


def _balances(gross: list[Obligation]) -> dict[tuple[str, str], int]:
    """Each obligation settled by itself on accounts that begin at zero."""
    accounts: dict[tuple[str, str], int] = {}
    for each in gross:
        accounts[each.payer, each.currency] = accounts.get((each.payer, each.currency), 0) - each.amount_minor
        accounts[each.payee, each.currency] = accounts.get((each.payee, each.currency), 0) + each.amount_minor
    return accounts


@given(obligations())
def test_net_positions_leave_everybody_where_gross_settlement_would(gross: list[Obligation]) -> None:
    report = net(gross)
    assert {(p.participant, p.currency): p.net_minor for p in report.positions} == _balances(gross)
    assert faults_against(report, gross) == []
    for name in _NAMES:
        own = [each for each in gross if name in (each.payer, each.payee)]
        assert faults_of_participant(report, name, own) == []


@given(obligations(), st.randoms(use_true_random=False))
def test_the_order_of_obligations_does_not_matter(gross: list[Obligation], random: "object") -> None:
    shuffled = list(gross)
    random.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis gives a random.Random
    assert net(shuffled) == net(gross)


@given(obligations().filter(bool))
def test_netting_saves_and_never_costs(gross: list[Obligation]) -> None:
    for total in net(gross).totals:
        amounts = [each.amount_minor for each in gross if each.currency == total.currency]
        assert total.gross_minor == sum(amounts)
        assert 0 <= total.settled_minor <= total.gross_minor
        assert total.saved_minor == total.gross_minor - total.settled_minor
        assert total.obligations == len(amounts)


@given(obligations().filter(bool), st.data())
def test_a_report_that_was_changed_is_found_out(gross: list[Obligation], data: st.DataObject) -> None:
    report = net(gross)
    number = data.draw(st.integers(0, len(report.positions) - 1))
    field = data.draw(
        st.sampled_from(["payable_minor", "receivable_minor", "net_minor", "obligations", "participant"])
    )
    position = report.positions[number]
    value = getattr(position, field)
    forged = msgspec.structs.replace(
        position, **{field: "NOBODY" if field == "participant" else value + data.draw(st.integers(1, 10**9))}
    )
    positions = (*report.positions[:number], forged, *report.positions[number + 1 :])
    tampered = msgspec.structs.replace(report, positions=positions)
    assert faults_against(tampered, gross)
    if field != "participant":
        assert faults_of(tampered)


@given(obligations().filter(bool), st.data())
def test_an_obligation_that_was_changed_is_found_out(gross: list[Obligation], data: st.DataObject) -> None:
    report = net(gross)
    number = data.draw(st.integers(0, len(gross) - 1))
    changed = msgspec.structs.replace(gross[number], amount_minor=gross[number].amount_minor + 1)
    assert faults_against(report, [*gross[:number], changed, *gross[number + 1 :]])
    assert faults_against(report, gross[:number] + gross[number + 1 :])


def test_money_moved_between_two_participants_in_a_report_shows_to_both() -> None:
    """Every sum still holds after such a forgery, so only the obligations themselves show it."""
    gross = [
        Obligation("o1", "A", "B", "SGD", 100),
        Obligation("o2", "B", "C", "SGD", 60),
        Obligation("o3", "C", "A", "SGD", 10),
    ]
    report = net(gross)
    assert [(p.participant, p.net_minor) for p in report.positions] == [("A", -90), ("B", 40), ("C", 50)]
    forged = NettingReport(
        (
            report.positions[0],
            Position("B", "SGD", 60, 110, 50, 2),
            Position("C", "SGD", 10, 50, 40, 2),
        ),
        report.totals,
        report.obligations_digest,
    )
    assert faults_of(forged) == []
    assert faults_of_participant(forged, "A", gross) == []
    assert faults_of_participant(forged, "B", gross)
    assert faults_of_participant(forged, "C", gross)


def test_a_ring_of_equal_debts_settles_with_nothing() -> None:
    total = net(
        [
            Obligation("o1", "A", "B", "JPY", 500),
            Obligation("o2", "B", "C", "JPY", 500),
            Obligation("o3", "C", "A", "JPY", 500),
        ]
    ).totals[0]
    assert (total.gross_minor, total.settled_minor, total.saved_share) == (1500, 0, 1.0)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (Obligation("o1", "A", "A", "SGD", 5), "obligation_to_self"),
        (Obligation("o1", "A", "B", "SGD", 0), "amount_not_positive"),
        (Obligation("o1", "A", "B", "SGD", -5), "amount_not_positive"),
        (Obligation("o0", "A", "B", "SGD", 5), "obligation_duplicate"),
        (Obligation("o1", "A\x1fB", "C", "SGD", 5), "text_malformed"),
        (Obligation("o1\n", "A", "C", "SGD", 5), "text_malformed"),
        (Obligation("o1", "A", "B", "SGD", 2**63 - 1), "amount_out_of_range"),
    ],
)
def test_what_cannot_be_netted_is_refused(wrong: Obligation, code: str) -> None:
    with pytest.raises(FinFlowError) as refused:
        net([Obligation("o0", "A", "B", "SGD", 1), wrong])
    assert refused.value.kind.code == code


def test_the_digest_is_that_of_the_documented_text() -> None:
    # printf 'a\x1fX\x1fY\x1fSGD\x1f12\nb\x1fY\x1fX\x1fJPY\x1f7' | sha256sum
    digest = digest_of([Obligation("b", "Y", "X", "JPY", 7), Obligation("a", "X", "Y", "SGD", 12)])
    assert digest == "04ddb2c381452264aa446283e058e4bb947bc5b2ba9a62be2bcfc7645d4a5e31"
