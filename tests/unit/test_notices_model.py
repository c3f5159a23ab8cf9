"""How notices look: keys, signatures, Slack's blocks, subjects, pauses. Signatures were made with openssl."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.rollout.notices import model
from finflow.rollout.ports import Notice

NOTICE = Notice(
    "rol_1", "payments", "aborted", "errors: E = 412 at 5 %.", "2026-03-01T10:00:00Z",
    {"weight_bp": 500, "gate": "errors"},
)  # fmt: skip


def test_a_key_is_of_one_event_of_one_rollout() -> None:
    same = msgspec.structs.replace(NOTICE, text="other words", facts={})
    others = [
        msgspec.structs.replace(NOTICE, rollout_id="rol_2"),
        msgspec.structs.replace(NOTICE, event="promoted"),
        msgspec.structs.replace(NOTICE, at="2026-03-01T10:00:01Z"),
    ]
    assert model.key_of(same) == model.key_of(NOTICE)
    assert len({model.key_of(each) for each in [NOTICE, *others]}) == 4


def test_the_signature_is_openssl_s() -> None:
    # printf '1772359200.{"a":1}' | openssl dgst -sha256 -hmac 'over the wall'
    expected = "56050f97eb6af888f55f8a4cef23b01333e98dffff21e1453b9d18b951f01719"
    assert model.signature(b"over the wall", 1_772_359_200, b'{"a":1}') == f"t=1772359200,v1={expected}"


def test_the_body_says_everything() -> None:
    assert msgspec.json.decode(model.body_of(NOTICE)) == {
        "key": model.key_of(NOTICE),
        "rollout_id": "rol_1",
        "service": "payments",
        "event": "aborted",
        "text": "errors: E = 412 at 5 %.",
        "at": "2026-03-01T10:00:00Z",
        "facts": {"weight_bp": 500, "gate": "errors"},
    }


TEXT = st.text(max_size=5_000)


@given(TEXT, TEXT, st.dictionaries(TEXT, TEXT | st.integers() | st.lists(st.integers()), max_size=30))
def test_slack_takes_whatever_is_said(service: str, text: str, facts: dict[str, object]) -> None:
    told = model.slack_message(msgspec.structs.replace(NOTICE, service=service, text=text, facts=facts))
    first, *rest = told["blocks"]
    assert 0 < len(first["text"]["text"]) <= 3_000
    assert len(told["text"]) <= 3_000
    for block in rest:
        assert len(block.get("fields", [])) <= 10
        for field in block.get("fields", []) + block.get("elements", []):
            assert len(field["text"]) <= 3_000
    everything = msgspec.json.encode(told).decode()
    assert "<" not in everything
    assert ">" not in everything


def test_slack_s_words() -> None:
    told = model.slack_message(msgspec.structs.replace(NOTICE, text="<!channel> & <https://evil|here>"))
    assert told["text"] == "[payments] aborted: &lt;!channel&gt; &amp; &lt;https://evil|here&gt;"
    assert [field["text"] for field in told["blocks"][1]["fields"]] == ["*weight_bp*\n500", "*gate*\nerrors"]


@given(st.text())
def test_a_subject_is_one_line(text: str) -> None:
    subject = model.subject(msgspec.structs.replace(NOTICE, text=text))
    assert len(subject) <= 150
    assert all(ord(letter) >= 32 for letter in subject)


@pytest.mark.parametrize(
    ("within_s", "expected"),
    [(0.1, []), (0.5, [0.5]), (3.5, [0.5, 1, 2]), (60, [0.5, 1, 2, 4, 8, 15, 15])],
)
def test_pauses_double_within_the_budget(within_s: float, expected: list[float]) -> None:
    assert model.pauses(within_s) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("", 0), ("5", 5), ("999999", 30), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0)]
)
def test_a_receiver_may_ask_for_a_pause(text: str, expected: float) -> None:
    assert model.retry_after_s({"Retry-After": text}, 30) == expected
