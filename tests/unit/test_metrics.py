"""Counters in slots: what is counted is what is read, by the parsers of Prometheus' own client."""

import multiprocessing
import os
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from finflow.telemetry import retained
from finflow.telemetry.collecting import Collector, block_files, block_path
from finflow.telemetry.exposition import pieces, wants_openmetrics
from finflow.telemetry.folder import attach, folder_for, kept
from finflow.telemetry.merging import quantile, rebucketed
from finflow.telemetry.metrics import OTHER, Counter, Family, Placed, Registry, encode
from finflow.telemetry.slots import RECORD_BYTES, Block, BlockReader

EDGES = (0.005, 0.01, 0.05, 0.138, 0.2, 1.0, 2.5)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def registry(release: str = "", at: Path | None = None, wall_s: float = 1_000.0) -> Registry:
    made = Registry(4_096, 1 << 16, lambda: wall_s)
    made.counter("t_requests", "Requests.", ("route",), released=True)
    if at is not None:
        made.attach(block_path(at, os.getpid()), release, os.getpid())
    return made


def requests_of(made: Registry) -> "Family[Counter]":
    family: Family[Counter] = made._families["t_requests"]
    return family


def shown(collector: Collector, openmetrics: bool = True) -> str:
    return "".join(pieces(collector, openmetrics))


def samples(families: Iterator[Metric]) -> Samples:
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for family in families
        for each in family.samples
        if not each.name.endswith("_created")
    }


def alone(source: Registry) -> Collector:
    return Collector(None, source)


def value(collector: Collector, name: str, **labels: str) -> float:
    return samples(read_openmetrics(shown(collector)))[name, frozenset(labels.items())]


@given(st.lists(st.sampled_from(EDGES) | st.floats(-1, 20), max_size=40))
def test_many_observations_in_one_step_count_as_one_by_one(durations: list[float]) -> None:
    registry = Registry(4_096, 1 << 16)
    family = registry.histogram("t_time_seconds", "Time.", EDGES, ("how",))
    together, apart = family.bind("together"), family.bind("apart")
    together.observe_each(durations)
    for duration in durations:
        apart.observe(max(0.0, duration))
    buckets = len(EDGES) + 1
    numbers = registry.block.reader().numbers(2 * buckets + 2)
    placed = [numbers[each._slot : each._slot + buckets] for each in (together, apart)]
    assert placed[0] == placed[1]
    assert together.sum == pytest.approx(apart.sum)


# --- against Prometheus' own client ---


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["/a", "/b", 'quoted "x"', "back\\slash", "new\nline", "ü"]), max_size=20),
    st.lists(st.sampled_from(EDGES) | st.floats(0, 10), max_size=40),
    st.booleans(),
)
def test_what_is_shown_is_what_prometheus_own_client_shows(
    routes: list[str], durations: list[float], openmetrics: bool
) -> None:
    ours, theirs = Registry(4_096, 1 << 16), prometheus_client.CollectorRegistry()
    counter = ours.counter("t_requests", "Requests \\ of\na kind.", ("route",))
    histogram = ours.histogram("t_time_seconds", "Time.", EDGES, ("route",), unit="seconds")
    same = prometheus_client.Counter("t_requests", "Requests \\ of\na kind.", ["route"], registry=theirs)
    same_time = prometheus_client.Histogram(
        "t_time_seconds", "Time.", ["route"], registry=theirs, buckets=EDGES, unit="seconds"
    )
    for route in routes:
        counter.bind(route).inc()
        same.labels(route).inc()
    for number, duration in enumerate(durations):
        bound, same_bound = histogram.bind("/a"), same_time.labels("/a")
        same_bound.observe(duration)
        if number % 3 == 0:
            bound.observe(duration)
        elif number % 3 == 1:
            # What is below zero counts as zero.
            bound.observe_each([duration, -duration])
            same_bound.observe(0.0)
        else:
            bound.observe_counted(duration, counter.bind("/a"), counter.bind("ü"))
            same.labels("/a").inc()
            same.labels("ü").inc()
    if openmetrics:
        from prometheus_client.openmetrics.exposition import generate_latest

        read = read_openmetrics
    else:
        from prometheus_client.exposition import generate_latest

        read = read_text
    found = samples(read(shown(alone(ours), openmetrics)))
    # Of families without series theirs shows nothing, and neither does ours.
    expected = samples(read(generate_latest(theirs).decode()))
    assert {key: each for key, each in found.items() if "metrics_overflow" not in key[0]} == expected


def test_both_formats_name_their_types_as_the_parsers_expect() -> None:
    made = Registry(256, 1 << 14)
    made.counter("t_seen", "Seen.").bind().add(3)
    made.gauge("t_depth", "Depth.").bind().set(-2.5)
    made.gauge("t_build", "Build.", ("version",), kind="info").bind("1.0").set(1)
    made.histogram("t_wait_seconds", "Wait.", (0.1, 1), unit="seconds").bind().observe(0.1)
    kinds = {family.name: family.type for family in read_openmetrics(shown(alone(made)))}
    assert kinds | {"finflow_metrics_overflow": "counter"} == kinds
    assert [kinds[name] for name in ("t_seen", "t_depth", "t_build", "t_wait_seconds")] == [
        "counter", "gauge", "info", "histogram",
    ]  # fmt: skip
    plain = {family.name: family.type for family in read_text(shown(alone(made), False))}
    assert (plain["t_seen"], plain["t_build_info"]) == ("counter", "gauge")


def test_numbers_that_are_none_are_written_as_both_formats_want_them() -> None:
    made = Registry(256, 1 << 14)
    family = made.gauge("t_depth", "Depth.", ("kind",))
    for kind, number in (
        ("up", float("inf")),
        ("down", float("-inf")),
        ("none", float("nan")),
        ("big", 1e300),
    ):
        family.bind(kind).set(number)
    found = samples(read_openmetrics(shown(alone(made))))
    by_kind = {dict(labels)["kind"]: each for (name, labels), each in found.items() if name == "t_depth"}
    assert (by_kind["up"], by_kind["down"], by_kind["big"]) == (float("inf"), float("-inf"), 1e300)
    assert by_kind["none"] != by_kind["none"]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        # What Prometheus 2.42 sends.
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
         "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text; version=1.0.0; q=0.3, text/plain; q=0.9", False),
        ("application/openmetrics-text; version=9.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
    ],
)  # fmt: skip
def test_the_format_is_the_one_that_the_reader_prefers(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


# --- several processes, and their ends ---


@settings(max_examples=50, deadline=None)
@given(
    processes=st.lists(
        st.tuples(st.sampled_from(["1.0", "1.1"]), st.lists(st.integers(0, 3), max_size=8), st.booleans()),
        max_size=6,
    )
)
def test_the_sum_over_processes_is_the_same_before_and_after_their_end(
    processes: list[tuple[str, list[int], bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("m")
    expected: dict[tuple[str, str], float] = {}
    live = []
    for release, counts, ends in processes:
        made = registry(release, folder)
        histogram = made.histogram("t_time_seconds", "Time.", EDGES, released=True, unit="seconds").bind()
        for number in counts:
            requests_of(made).bind(f"/{number}").add(number)
            histogram.observe(EDGES[number])
            expected[release, f"/{number}"] = expected.get((release, f"/{number}"), 0) + number
            expected[release, "time"] = expected.get((release, "time"), 0) + 1
        live.append((made, ends))
    reader = Collector(folder)

    def found() -> dict[tuple[str, str], float]:
        read = samples(read_openmetrics(shown(reader)))
        labelled = [(name, dict(labels), each) for (name, labels), each in read.items()]
        counted = {(ls["release"], ls["route"]): v for name, ls, v in labelled if name == "t_requests_total"}
        timed = {
            (ls["release"], "time"): v for name, ls, v in labelled if name == "t_time_seconds_count" and v
        }
        return counted | timed

    assert found() == expected
    for made, ends in live:
        if ends:
            made.release()
    assert found() == expected
    assert len(block_files(folder)) == sum(not ends for _, ends in live)
    assert found() == expected


def test_a_kill_between_the_two_steps_of_folding_counts_nothing_twice(tmp_path: Path) -> None:
    made = registry("1.0", tmp_path)
    requests_of(made).bind("/").add(7)
    made.release()
    [block] = block_files(tmp_path)
    content = block.read_bytes()
    retained.fold(tmp_path, [block])
    # As if the process that folded had died before it removed the file.
    block.write_bytes(content)
    assert value(Collector(tmp_path), "t_requests_total", route="/", release="1.0") == 7
    assert block_files(tmp_path) == []


def test_whoever_reads_while_another_folds_sees_every_count_once(tmp_path: Path) -> None:
    reader = Collector(tmp_path)
    for number in range(5):
        made = registry("1.0", tmp_path)
        requests_of(made).bind("/").add(1)
        assert value(reader, "t_requests_total", route="/", release="1.0") == number + 1
        made.release()
        reading = reader.collect()
        next(reading)
        Collector(tmp_path).collect().__next__()  # folds in the middle of the other's reading
        list(reading)
        assert value(reader, "t_requests_total", route="/", release="1.0") == number + 1


def test_gauges_of_an_ended_process_are_gone_and_those_of_living_ones_combined(tmp_path: Path) -> None:
    made = []
    for number in (3.0, 5.0):
        each = Registry(256, 1 << 14)
        each.gauge("t_sum", "Sum.").bind().set(number)
        each.gauge("t_max", "Max.", merge="max").bind().set(-number)
        each.gauge("t_min", "Min.", merge="min").bind().set(number)
        each.attach(block_path(tmp_path, 1), "", 1)
        made.append(each)
    reader = Collector(tmp_path)
    assert [value(reader, name) for name in ("t_sum", "t_max", "t_min")] == [8, -3, 3]
    made[0].release()
    assert [value(reader, name) for name in ("t_sum", "t_max", "t_min")] == [5, -5, 5]


def test_counts_survive_the_end_of_all_processes_and_a_move_to_the_data_folder(tmp_path: Path) -> None:
    memory, data = tmp_path / "memory", tmp_path / "data"
    for number in range(3):
        with kept(memory, data):
            made = registry()
            attach(made, memory, "1.0")
            requests_of(made).bind("/").add(2)
            assert value(Collector(memory), "t_requests_total", route="/", release="1.0") == 2 * (number + 1)
            made.release()
        assert not memory.exists()


def test_what_a_killed_stack_left_goes_once_its_data_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finflow.telemetry.folder._MEMORY", tmp_path)
    datas = [tmp_path / name for name in ("gone", "alive", "there")]
    folders = [folder_for(data) for data in datas]
    living = []
    for data, folder in zip(datas, folders, strict=True):
        data.mkdir()
        # As a killed process leaves it: begun, never ended.
        beginning = kept(folder, data)
        beginning.__enter__()
        living.append(beginning)
        made = registry()
        assert attach(made, folder, "1.0")
        if data.name == "alive":
            living.append(made)
        else:
            made.release()
    datas[0].rmdir()
    datas[1].rmdir()
    with kept(tmp_path / "next", tmp_path / "data"):
        assert [folder.exists() for folder in folders] == [False, True, True]


def test_only_so_many_releases_are_kept(tmp_path: Path) -> None:
    for number in range(retained.RELEASES_KEPT + 5):
        made = registry(f"r{number}", tmp_path)
        requests_of(made).bind("/").add(1)
        made.release()
        found = samples(read_openmetrics(shown(Collector(tmp_path))))
    releases = {dict(labels).get("release") for name, labels in found if name == "t_requests_total"}
    assert releases == {f"r{number}" for number in range(5, retained.RELEASES_KEPT + 5)}


def test_what_is_retained_of_one_family_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained, "SERIES_KEPT", 10)
    for number in range(10):
        made = Registry(256, 1 << 14)
        family = made.counter("t_tenants", "Tenants.", ("tenant",), open_labels=("tenant",), limit=5)
        for tenant in range(5):
            family.bind(f"{number}-{tenant}").inc()
        made.attach(block_path(tmp_path, 1), "", 1)
        made.release()
    Collector(tmp_path).collect().__next__()
    [tenants] = [each for each in retained.read(tmp_path).families if each.declaration.name == "t_tenants"]
    assert len(tenants.series) <= 11
    assert sum(each.numbers[0] for each in tenants.series) == 50


def test_files_that_make_no_sense_cost_nobody_a_count(tmp_path: Path) -> None:
    made = registry("1.0", tmp_path)
    requests_of(made).bind("/").add(5)
    whole = block_files(tmp_path)[0].read_bytes()
    broken = {
        "1-empty.block": b"",
        "1-text.block": b"not a block at all",
        "1-short.block": whole[:100],
        "1-zeros.block": bytes(len(whole)),
        # The header of one that is whole, and records of nothing.
        "1-records.block": whole[: 64 + 8 * 4_096] + b"\xff" * (1 << 16),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    assert value(Collector(tmp_path), "t_requests_total", route="/", release="1.0") == 5
    assert len(block_files(tmp_path)) == 1
    (tmp_path / retained.FILE).write_bytes(b"torn")
    assert value(Collector(tmp_path), "t_requests_total", route="/", release="1.0") == 5


def test_a_series_beyond_its_block_is_left_out(tmp_path: Path) -> None:
    made = Registry(16, 1 << 12)
    family = made.counter("t_requests", "Requests.", ("route",))
    family.bind("/").inc()
    made.block.append(encode(Placed(1, 15_000, 0.0, ("/far",))))
    made.attach(block_path(tmp_path, 1), "", 1)
    assert value(Collector(tmp_path), "t_requests_total", route="/") == 1
    made.release()
    assert shown(Collector(tmp_path)).endswith("# EOF\n")


# --- bounds ---


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=300), max_size=60), st.integers(1, 5))
def test_labels_from_outside_are_bounded_and_no_count_is_lost(tenants: list[str], limit: int) -> None:
    made = Registry(512, 1 << 16)
    family = made.counter("t_tenants", "Tenants.", ("tenant", "kind"), open_labels=("tenant",), limit=limit)
    for tenant in tenants:
        family.bind(tenant, "x").inc()
    assert len(family) <= limit + 1
    found = samples(read_openmetrics(shown(alone(made))))
    counted = {dict(labels)["tenant"]: v for (name, labels), v in found.items() if name == "t_tenants_total"}
    assert sum(counted.values()) == len(tenants)
    overflow = found["finflow_metrics_overflow_total", frozenset({("metric", "t_tenants")})]
    assert overflow == counted.get(OTHER, 0) - tenants.count(OTHER)


def test_a_full_block_shares_what_is_left_and_counts_on() -> None:
    made = Registry(8, 1 << 12)
    family = made.counter("t_many", "Many.", ("number",))
    for number in range(100):
        family.bind(str(number)).inc()
    found = samples(read_openmetrics(shown(alone(made))))
    kept_series = [each for (name, _), each in found.items() if name == "t_many_total"]
    lost = found["finflow_metrics_overflow_total", frozenset({("metric", OTHER)})]
    assert (sum(kept_series) + lost, len(kept_series) < 8) == (100, True)


def test_a_block_file_that_finds_no_room_leaves_the_registry_counting_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    made = registry()
    assert attach(made, tmp_path / "m", "1.0") is False
    requests_of(made).bind("/").add(1)
    assert value(alone(made), "t_requests_total", route="/", release="1.0") == 1
    assert list((tmp_path / "m").glob("*")) in ([], [tmp_path / "m" / "fold.lock"])


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m").chmod(0o777)
    assert attach(registry(), tmp_path / "m", "1.0") is False


# --- reading while somebody writes ---


def _write_for_ever(path: str, ready: "multiprocessing.synchronize.Event") -> None:  # type: ignore[name-defined]
    made = Registry(256, 1 << 14)
    counter = made.counter("t_seen", "Seen.").bind()
    made.attach(Path(path), "", os.getpid())
    # Every byte of these two differs: half of one and half of the other would be neither.
    low, high = (struct.unpack("<d", bytes([byte] * 8))[0] for byte in (0x3F, 0x41))
    ready.set()
    while True:
        counter._values[counter._slot] = low
        counter._values[counter._slot] = high


def test_a_number_is_read_whole_while_another_process_writes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    path = block_path(tmp_path, 1)
    writer = context.Process(target=_write_for_ever, args=(str(path), ready), daemon=True)
    writer.start()
    try:
        assert ready.wait(30)
        reader = BlockReader.open(path)
        seen: set[float] = set()
        deadline = time.monotonic() + 60
        while len(seen) < 3 and time.monotonic() < deadline:
            seen |= {each for _ in range(3_000) for each in reader.numbers(8)}
    finally:
        writer.kill()
        writer.join()
    whole = {struct.unpack("<d", bytes([byte] * 8))[0] for byte in (0x3F, 0x41, 0x00)}
    assert whole >= seen
    assert len(seen) == 3


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=12), st.integers(0, 2_000))
def test_a_record_counts_only_when_all_of_it_is_there(bodies: list[bytes], hidden: int) -> None:
    block = Block.anonymous(0.0, 16, 1 << 12)
    for body in bodies:
        assert block.append(body)
    whole = block.image()
    # The end of what was written has not reached the reader yet.
    seen = bytearray(whole)
    end = 64 + 16 * 8 + sum(len(body) + 8 for body in bodies)
    cut = max(64 + 16 * 8, end - hidden)
    seen[cut:end] = bytes(end - cut)
    late = Block.anonymous(0.0, 16, 1 << 12)
    late._memory[:] = bytes(seen)
    reader = late.reader()
    first = list(reader.new_records())
    assert first == bodies[: len(first)]
    late._memory[:] = whole
    assert first + list(reader.new_records()) == bodies


# --- exemplars and time ---


def test_exemplars_name_the_trace_of_the_newest_observation_in_their_bucket(tmp_path: Path) -> None:
    for number in (1, 2):
        made = Registry(1_024, 1 << 14)
        bound = made.histogram(
            "t_time_seconds", "T.", EDGES, ("route",), unit="seconds", exemplars=True
        ).bind("/")
        bound.observe(0.1)
        bound.exemplify(0.1, bytes([number] * 16), bytes([number] * 8), 50.0 + number)
        bound.observe(0.1)
        made.attach(block_path(tmp_path, number), "", number)
        globals()[f"_kept_{number}"] = made  # its lock says that it lives
    [family] = [f for f in read_openmetrics(shown(Collector(tmp_path))) if f.name == "t_time_seconds"]
    found = [each for each in family.samples if each.exemplar]
    assert [each.labels["le"] for each in found] == ["0.138"]
    assert found[0].value == 4
    assert found[0].exemplar is not None
    assert found[0].exemplar.labels == {"trace_id": "02" * 16, "span_id": "02" * 8}
    assert (found[0].exemplar.value, float(found[0].exemplar.timestamp)) == (0.1, 52.0)


def test_a_torn_exemplar_is_left_out() -> None:
    made = Registry(1_024, 1 << 14)
    bound = made.histogram("t_time_seconds", "T.", EDGES, unit="seconds", exemplars=True).bind()
    bound.observe(0.1)
    bound.exemplify(0.1, b"a" * 16, b"b" * 8, 50.0)
    at = bound._exemplars_at + 3 * 6
    made.block.write(at, b"c" * 16)
    assert " # {" not in shown(alone(made))


def test_a_clock_that_steps_back_changes_no_count_and_moves_no_beginning_forward(tmp_path: Path) -> None:
    for wall_s in (5_000.0, 1_000.0, 9_000.0):
        made = registry("1.0", tmp_path, wall_s)
        requests_of(made).bind("/").inc()
        made.release()
    text = shown(Collector(tmp_path))
    assert value(Collector(tmp_path), "t_requests_total", route="/", release="1.0") == 3
    assert 't_requests_created{route="/",release="1.0"} 1000.000000' in text


# --- histograms ---


@given(st.lists(st.floats(0, 20), max_size=60), st.sets(st.floats(0.001, 15), min_size=1, max_size=8))
def test_other_edges_keep_the_count_and_never_make_an_observation_smaller(
    values: list[float], wanted: set[float]
) -> None:
    edges = tuple(sorted(wanted))
    bounds = [0.0, *EDGES, float("inf")]
    counts = [
        float(sum(low < v <= high or (v == 0 == low) for v in values)) for low, high in pairwise(bounds)
    ]
    moved = rebucketed([*counts, sum(values)], EDGES, edges)
    assert sum(moved[:-1]) == len(values)
    assert moved[-1] == sum(values)
    for place, edge in enumerate(edges):
        assert sum(moved[: place + 1]) <= sum(v <= edge for v in values)


@given(st.lists(st.integers(0, 50), min_size=8, max_size=8), st.floats(0, 1))
def test_a_quantile_is_where_the_cumulative_counts_cross_its_rank(counts: list[int], share: float) -> None:
    found = quantile(share, EDGES, [float(each) for each in counts])
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    rank, cumulative = share * sum(counts), [sum(counts[: place + 1]) for place in range(8)]
    holding = next(place for place in range(8) if counts[place] and cumulative[place] >= rank)
    low, high = ([0.0, *EDGES, EDGES[-1]][holding], [*EDGES, EDGES[-1]][holding])
    assert low - 1e-9 <= found <= high + 1e-9


def test_quantiles_are_interpolated_as_prometheus_does_it() -> None:
    # 10 observations in (0.01, 0.05], 10 in (0.05, 0.138]: three quarters lie below the latter's middle.
    counts = [0.0, 0.0, 10.0, 10.0, 0.0, 0.0, 0.0, 0.0]
    assert quantile(0.5, EDGES, counts) == pytest.approx(0.05)
    assert quantile(0.75, EDGES, counts) == pytest.approx(0.094)
    assert quantile(0.99, EDGES, [0.0] * 7 + [4.0]) == 2.5


def test_records_have_room_for_ten_thousand_series() -> None:
    made = Registry()
    family = made.counter("t_many", "Many.", ("tenant", "outcome"))
    for number in range(10_000):
        family.bind(f"ten_01m82nreh9edy80000000{number:05}", "good")
    assert len(family) == 10_000
    assert made.block._length < RECORD_BYTES
