"""`finflow top`: numbers as reckoned by hand, and the screen that is kept here."""

import math
from collections.abc import Iterator

import msgspec
import pytest

from finflow.cli import top as command
from finflow.cli.top_model import Top, Watch
from finflow.cli.top_screen import plain, screen
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import samples
from finflow.telemetry.samples import Sample, Scrape, parse

BEFORE = """
http_server_request_duration_seconds_bucket{http_request_method="POST",http_route="/v1/transactions",release="1.0",le="0.1"} 100
http_server_request_duration_seconds_bucket{http_request_method="POST",http_route="/v1/transactions",release="1.0",le="0.2"} 100
http_server_request_duration_seconds_bucket{http_request_method="POST",http_route="/v1/transactions",release="1.0",le="+Inf"} 100
http_server_request_duration_seconds_count{http_request_method="POST",http_route="/v1/transactions",release="1.0"} 100
http_server_requests_total{http_request_method="POST",http_route="/v1/transactions",status_class="5xx",release="1.0"} 4
finflow_tenant_requests_total{tenant="ten_a",outcome="good",release="1.0"} 50
"""  # noqa: E501 - lines of a format that has no continuation
AFTER = """
# HELP http_server_request_duration_seconds Time.
# TYPE http_server_request_duration_seconds histogram
http_server_request_duration_seconds_bucket{http_request_method="POST",http_route="/v1/transactions",release="1.0",le="0.1"} 140
http_server_request_duration_seconds_bucket{http_request_method="POST",http_route="/v1/transactions",release="1.0",le="0.2"} 180
http_server_request_duration_seconds_bucket{http_request_method="POST",http_route="/v1/transactions",release="1.0",le="+Inf"} 180
http_server_request_duration_seconds_count{http_request_method="POST",http_route="/v1/transactions",release="1.0"} 180
http_server_request_duration_seconds_bucket{http_request_method="GET",http_route="/v1/accounts/{account_id}",release="1.1",le="0.1"} 20
http_server_request_duration_seconds_bucket{http_request_method="GET",http_route="/v1/accounts/{account_id}",release="1.1",le="0.2"} 20
http_server_request_duration_seconds_bucket{http_request_method="GET",http_route="/v1/accounts/{account_id}",release="1.1",le="+Inf"} 20
http_server_request_duration_seconds_count{http_request_method="GET",http_route="/v1/accounts/{account_id}",release="1.1"} 20
http_server_requests_total{http_request_method="POST",http_route="/v1/transactions",status_class="5xx",release="1.0"} 8
finflow_tenant_requests_total{tenant="ten_a",outcome="good",release="1.0"} 120
finflow_tenant_requests_total{tenant="ten_b",outcome="good",release="1.0"} 14
finflow_tenant_requests_total{tenant="ten_b",outcome="slow",release="1.0"} 2
finflow_tenant_requests_total{tenant="ten_b",outcome="failed",release="1.0"} 4
finflow_http_problems_total{code="exceeds_available",release="1.0"} 6
finflow_http_problems_total{code="internal",release="1.0"} 0
finflow_ledger_batch_commands_count{release="1.0"} 10
finflow_ledger_batch_commands_sum{release="1.0"} 80
finflow_ledger_commands_total{outcome="refused",release="1.0"} 6
finflow_ledger_queued_commands{release="1.0"} 3
finflow_ledger_queue_wait_seconds_bucket{release="1.0",le="0.01"} 10
finflow_ledger_queue_wait_seconds_bucket{release="1.0",le="+Inf"} 10
finflow_ledger_commit_duration_seconds_bucket{release="1.0",le="0.001"} 10
finflow_ledger_commit_duration_seconds_bucket{release="1.0",le="+Inf"} 10
finflow_ledger_batch_retries_total{reason="void",release="1.0"} 2
finflow_ledger_write_failures_total{code="internal",release="1.0"} 1
finflow_ledger_unknown_outcomes_total{release="1.0"} 5
finflow_processes{role="api",release="1.0"} 1
finflow_processes{role="api",release="1.1"} 1
finflow_processes{role="stack",release="1.0"} 1
process_cpu_seconds_total{release="1.0"} 3
process_resident_memory_bytes{release="1.0"} 209715200
process_open_fds{release="1.0"} 61
finflow_event_loop_lag_seconds_bucket{release="1.0",le="0.001"} 8
finflow_event_loop_lag_seconds_bucket{release="1.0",le="+Inf"} 8
db_client_connection_count{db_client_connection_state="used"} 2
db_client_connection_count{db_client_connection_state="idle"} 4
db_client_connection_max 16
db_client_connection_pending_requests 1
"""  # noqa: E501 - lines of a format that has no continuation

SCREEN = """\
finflow top  release 1.0, 1.1  2 workers  over 2.0 s  http://127.0.0.1:8400/metrics
ROUTE                           REQ/S   FAIL/S   P50 MS   P95 MS   P99 MS
─────────────────────────────────────────────────────────────────────────
all                              50.0      2.0     83.3    187.5    197.5
POST /v1/transactions            40.0      2.0    100.0    190.0    198.0
GET /v1/accounts/{account_id}    10.0      0.0     50.0     95.0     99.0
RELEASE          REQ/S   FAIL/S   P50 MS   P95 MS   P99 MS
──────────────────────────────────────────────────────────
1.0               40.0      2.0    100.0    190.0    198.0
1.1               10.0      0.0     50.0     95.0     99.0
TENANT           REQ/S   FAIL/S   SLOW/S
────────────────────────────────────────
ten_a             35.0      0.0      0.0
ten_b             10.0      2.0      1.0
PROBLEM             PER S
─────────────────────────
exceeds_available     3.0
GROUP COMMIT
────────────────────────────────────────────────────────────────────
commands/s 40.0   batches/s 5.0        per batch 8.0   queued 3
wait p99 9.9 ms   commit p99 1.0 ms    retries/s 1.0   refused/s 3.0
failed writes 1   unknown outcomes 5
PROCESSES
──────────────────────────────────────────────────────────────────────────
cpu 1.50 cores     memory 200 MiB      open files 61   loop lag p99 1.0 ms
connections 2/16   waiting for one 1
"""


URL = "http://127.0.0.1:8400/metrics"


def top(before: Scrape, after: Scrape) -> Top:
    return Watch(before).next(after)


def test_the_numbers_are_the_differences_over_the_seconds_between() -> None:
    found = top(Scrape(BEFORE, 10.0), Scrape(AFTER, 12.0))
    assert (found.all.per_s, found.all.failed_per_s) == (50.0, 2.0)
    # Of 80 new postings 40 took up to 100 ms and 40 up to 200: half lie below 100, 95 in 100 below 190.
    post = found.routes[0]
    assert (post.name, post.per_s, post.p50_ms, post.p95_ms) == ("POST /v1/transactions", 40.0, 100.0, 190.0)
    assert [(row.name, row.per_s) for row in found.releases] == [("1.0", 40.0), ("1.1", 10.0)]
    assert [(row.name, row.per_s, row.failed_per_s, row.slow_per_s) for row in found.tenants] == [
        ("ten_a", 35.0, 0.0, 0.0), ("ten_b", 10.0, 2.0, 1.0),
    ]  # fmt: skip
    assert found.refusals_per_s == {"exceeds_available": 3.0}
    assert (found.group_commit.commands_per_batch, found.group_commit.unknown_outcomes) == (8.0, 5)
    assert (found.processes.cpu_cores, found.processes.resident_mb) == (1.5, 200.0)


def test_the_screen_is_the_one_that_is_kept() -> None:
    assert plain(screen(top(Scrape(BEFORE, 10.0), Scrape(AFTER, 12.0)), URL)) + "\n" == SCREEN


def test_a_counter_that_began_anew_counts_from_its_beginning() -> None:
    found = top(Scrape(AFTER, 10.0), Scrape(BEFORE, 20.0))
    assert found.all.per_s == 10.0
    assert found.routes[0].p50_ms == 50.0


def test_nothing_measured_is_a_dash_and_not_a_zero() -> None:
    found = top(Scrape("", 1.0), Scrape("", 2.0))
    assert (found.all.p99_ms, found.group_commit.commands_per_batch) == (None, None)
    assert msgspec.json.decode(msgspec.json.encode(found))["all"]["p99_ms"] is None


def test_labels_are_read_as_they_are_escaped() -> None:
    [sample] = parse('a_total{x="a\\\\b\\"c\\nd",y="{,}"} +Inf\nnonsense\n')
    assert sample == Sample("a_total", {"x": 'a\\b"c\nd', "y": "{,}"}, math.inf)


def counted(*values: tuple[float, float], name: str = "process_cpu_seconds_total") -> list[Top]:
    """The screens of a counter's values at these moments."""
    scrapes = [Scrape(f"{name} {value}\n", at_s) for at_s, value in values]
    watch = Watch(scrapes[0])
    return [watch.next(each) for each in scrapes[1:]]


def test_time_used_is_measured_over_no_less_than_its_processes_take_to_say_it() -> None:
    # It grows by 3 s each 2 s, however often somebody looks.
    screens = counted((0.0, 3), (0.5, 3), (1.0, 3), (1.5, 6), (2.0, 6), (2.5, 6), (4.0, 9))
    assert [each.processes.cpu_cores for each in screens] == [None, None, None, 1.5, 1.5, 1.5]
    # That it stands still over so long says that nobody is there to say it.
    [still] = counted((0.0, 3), (5.0, 3))
    assert still.processes.cpu_cores is None
    assert "\ncpu -  " in plain(screen(still, URL))


def test_releases_are_those_that_run_and_those_that_had_requests() -> None:
    def text(requests: dict[str, int], running: str) -> str:
        name = "http_server_request_duration_seconds_count"
        labels = 'http_request_method="GET",http_route="/"'
        lines = [f'{name}{{{labels},release="{each}"}} {count}' for each, count in requests.items()]
        return "\n".join([*lines, f'finflow_processes{{role="api",release="{running}"}} 2', ""])

    before = Scrape(text({"r1": 5, "r2": 7}, "r2"), 1.0)
    found = top(before, Scrape(text({"r1": 5, "r2": 8}, "r3"), 2.0))
    assert [row.name for row in found.releases] == ["r2", "r3"]
    assert plain(screen(found, "")).startswith("finflow top  release r3  2 workers")


def crowded() -> Top:
    """Ten routes, 1,000 tenants, two releases, requests a second of six and seven digits."""
    lines = [
        f'http_server_request_duration_seconds_count{{http_request_method="GET",http_route="{route}",'
        f'release="{release}"}} {count}'
        for count, release in ((246_912, "1.0"), (2_222, "1.1"))
        for route in (f"/v1/settlement/cycles/{{cycle_id}}/{number}" for number in range(10))
    ]
    lines += [
        f'finflow_tenant_requests_total{{tenant="{tenant}",outcome="good"}} 9999'
        for tenant in (f"ten_01h455vb4pex5vsknk084sn{number:03}" for number in range(1000))
    ]
    return top(Scrape("", 10.0), Scrape(AFTER + "\n".join(lines), 12.0))


@pytest.mark.parametrize("width", [80, 60, 40])
def test_a_low_screen_gives_up_rows_of_tables_and_says_how_many(width: int) -> None:
    found = crowded()
    for height in (24, 30, 40):
        shown = plain(screen(found, URL, width, height)).splitlines()
        assert len(shown) <= height
        assert max(map(len, shown)) <= width
        text = " ".join(" ".join(shown).split())
        assert " of 1,002) REQ/S" in text
        for whole in (
            "failed writes 1",
            "unknown outcomes 5",
            "PROCESSES",
            "waiting for one 1",
            "1,245,770.0",
        ):
            assert whole in text


def test_names_and_columns_make_way_for_numbers() -> None:
    line = next(each for each in plain(screen(crowded(), URL, 80, 24)).splitlines() if "GET" in each)
    assert line == "GET /v1/settlement/cycles/{cy…     124,567.0      0.0        -        -        -"
    narrow = plain(screen(crowded(), URL, 40, 24)).splitlines()
    assert narrow[:3] == [
        "finflow top  release 1.0, 1.1  2 workers",
        "ROUTE (2 of 12)                    REQ/S",
        "all                          1,245,770.0",
    ]


@pytest.mark.parametrize("size", [(40, 15), (20, 5), (1, 1)])
def test_a_screen_that_is_too_small_for_anything_says_how_much_is_left(size: tuple[int, int]) -> None:
    shown = plain(screen(crowded(), URL, *size)).splitlines()
    assert len(shown) == size[1]
    assert shown[-1].endswith("more lines")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello <html>\n", "not with metrics"),
        ("", "without metrics of FinFlow"),
        ("up 1\n", "without metrics of FinFlow"),
    ],
)
def test_an_answer_without_metrics_of_finflow_is_refused(text: str, words: str) -> None:
    with pytest.raises(FinFlowError, match=f"api_unreachable: .*{words}"):
        command.read(URL, text)


@pytest.mark.parametrize("url", ["foo", "ftp://x", "http://", "http://[", "http://127.0.0.1:99999"])
def test_what_is_no_http_url_is_said_to_be_none(url: str) -> None:
    with pytest.raises(FinFlowError, match="not an http"):
        command.metrics_url({"url": url, "data": None})


async def test_who_no_longer_answers_keeps_the_last_screen_and_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([Scrape(BEFORE, 10.0), None, None, Scrape(AFTER, 12.0)])

    async def scrape(url: str) -> Scrape:
        found = next(answers)
        if found is None:
            raise FinFlowError("api_unreachable", "nobody is there")
        return found

    monkeypatch.setattr(command, "scrape", scrape)
    moments = iter(["14:00:00", "14:00:02"])
    monkeypatch.setattr(command, "strftime", lambda _: next(moments))
    where = {"url": URL.replace("http://", "http://me:hunter2@"), "data": None}
    shown = command.looks(where, 0.0, Watch(Scrape("", 8.0)))
    (first, url, trouble), second, third, (last, _, none) = [await anext(shown) for _ in range(4)]
    assert (url, trouble) == ("http://me:***@127.0.0.1:8400/metrics", "")
    assert second == third == (first, url, "no answer since 14:00:00: nobody is there")
    assert last is not None
    assert (last.over_s, last.all.per_s, none) == (2.0, 50.0, "")


class Watched(dict[str, str]):
    """Labels that count how often somebody looks at them."""

    looks = 0

    def get(self, *arguments: str) -> str | None:  # type: ignore[override]
        Watched.looks += 1
        return super().get(*arguments)


def test_a_screen_looks_at_each_sample_a_few_times_however_many_tenants_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def watched(text: str) -> Iterator[Sample]:
        return (each._replace(labels=Watched(each.labels)) for each in parse(text))

    monkeypatch.setattr(samples, "parse", watched)
    looks = {}
    for tenants in (100, 1000):
        text = "".join(
            f'finflow_tenant_requests_total{{tenant="ten_{number}",outcome="{outcome}"}} {number}\n'
            for number in range(1, tenants + 1)
            for outcome in ("good", "slow", "failed")
        )
        Watched.looks = 0
        assert len(top(Scrape("", 1.0), Scrape(text, 2.0)).tenants) > 0
        looks[tenants] = Watched.looks
    # Two labels of three samples for each tenant, once.
    assert looks == {100: 600, 1000: 6000}
