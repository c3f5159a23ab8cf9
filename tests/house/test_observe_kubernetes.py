"""deploy/observe/kubernetes says what compose.yml and its files say, and fits the way a pod runs FinFlow.

No chart is rendered and no cluster started: names of values are the charts' own and are not checked here.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from finflow.settings import SETTINGS

_OBSERVE = Path(__file__).parents[2] / "deploy" / "observe"
_KUBERNETES = _OBSERVE / "kubernetes"
# Who answers on which port in the namespace `observe`; `alerts` is the reader's own.
_LISTENING = {
    ("alerts", 9099), ("jaeger", 4317), ("jaeger", 16686), ("loki", 3100), ("otel-collector", 4318),
    ("thanos-query", 10904),
}  # fmt: skip


def _yaml(name: str) -> Any:
    return yaml.safe_load((_OBSERVE / name).read_text())


def _kubernetes(name: str) -> list[Any]:
    return list(yaml.safe_load_all((_KUBERNETES / name).read_text()))


def _stack() -> Any:
    return _kubernetes("kube-prometheus-stack.yaml")[0]


def _without_namespace(given: Any) -> Any:
    """The same with hosts named as compose names them."""
    text = yaml.safe_dump(given).replace("alerts.observe", "host.docker.internal").replace(".observe:", ":")
    return yaml.safe_load(text)


def _classic(text: str) -> dict[str, str]:
    """A section of Fluent Bit's classic format, its keys in lower case."""
    return {key.lower(): value for key, value in re.findall(r"^ +([\w.-]+) +(.+?) *$", text, re.MULTILINE)}


# --- the same as compose ---


def test_the_rules_are_the_same() -> None:
    assert _stack()["additionalPrometheusRulesMap"]["finflow"] == _yaml("prometheus/rules.yml")


def test_alerts_go_the_same_ways_and_pages_silence_tickets() -> None:
    assert _without_namespace(_stack()["alertmanager"]["config"]) == _yaml("alertmanager.yml")
    # What an alert is compared by there, every alert has.
    [inhibition] = _yaml("alertmanager.yml")["inhibit_rules"]
    labels = _yaml("prometheus/prometheus.yml")["global"]["external_labels"]
    assert set(inhibition["equal"]) <= labels.keys()
    assert set(inhibition["equal"]) <= _stack()["prometheus"]["prometheusSpec"]["externalLabels"].keys()


def test_grafana_has_the_same_sources_with_the_same_jumps_and_no_other_default() -> None:
    sources = _yaml("grafana/provisioning/datasources/finflow.yml")["datasources"]
    grafana = _stack()["grafana"]
    assert _without_namespace(grafana["additionalDataSources"]) == sources
    assert grafana["sidecar"]["datasources"] == {"defaultDatasourceEnabled": False}
    targets = {each["uid"]: each["jsonData"] for each in sources}
    assert targets["prometheus"]["exemplarTraceIdDestinations"][0]["datasourceUid"] == "jaeger"
    assert targets["loki"]["derivedFields"][0]["datasourceUid"] == "jaeger"
    assert targets["jaeger"]["tracesToLogsV2"]["datasourceUid"] == "loki"


def test_nobody_is_in_grafana_without_a_password() -> None:
    grafana = _stack()["grafana"]
    assert grafana["admin"]["existingSecret"]
    assert not {"auth", "auth.anonymous", "users"} & grafana["grafana.ini"].keys()


def test_prometheus_scrapes_and_keeps_the_same() -> None:
    local, spec = _yaml("prometheus/prometheus.yml"), _stack()["prometheus"]["prometheusSpec"]
    assert spec["scrapeInterval"] == local["global"]["scrape_interval"]
    assert spec["evaluationInterval"] == local["global"]["evaluation_interval"]
    command = _yaml("compose.yml")["services"]["prometheus"]["command"]
    assert [f"--enable-feature={each}" for each in spec["enableFeatures"]] == [
        each for each in command if each.startswith("--enable-feature=")
    ]
    # Prometheus' own default, which compose leaves alone.
    assert spec["retention"] == "15d"
    assert not [each for each in command if "retention" in each]
    [monitor] = _stack()["prometheus"]["additionalPodMonitors"]
    [endpoint] = monitor["podMetricsEndpoints"]
    assert {"targetLabel": "job", "replacement": "finflow"} in endpoint["relabelings"]
    finflow = local["scrape_configs"][0]
    assert finflow["job_name"] == "finflow"
    assert [
        {re.sub("L", "_l", key): value for key, value in each.items()}
        for each in endpoint["metricRelabelings"]
    ] == finflow["metric_relabel_configs"]


def test_thanos_makes_one_of_the_replicas() -> None:
    deployment, service = _kubernetes("thanos-query.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    compose = _yaml("compose.yml")["services"]["thanos-query"]
    assert container["image"] == compose["image"]
    elsewhere = {each for each in compose["command"] if not each.startswith("--endpoint=")}
    assert elsewhere < set(container["args"])
    spec = _stack()["prometheus"]["prometheusSpec"]
    assert f"--query.replica-label={spec['replicaExternalLabelName']}" in container["args"]
    assert _yaml("prometheus/prometheus.yml")["global"]["external_labels"]["replica"]
    # The chart names the service of the sidecars after itself.
    assert _stack()["prometheus"]["thanosService"]["enabled"]
    [endpoint] = set(container["args"]) - elsewhere
    assert f"+_grpc._tcp.{_stack()['fullnameOverride']}-thanos-discovery.observe.svc" in endpoint
    assert service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"] == 10904


def test_jaeger_is_the_same_and_spans_take_the_same_way() -> None:
    deployment, _ = _kubernetes("jaeger.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == _yaml("compose.yml")["services"]["jaeger"]["image"]
    local, [values] = _yaml("otel-collector.yml"), _kubernetes("opentelemetry-collector.yaml")
    there = _without_namespace(values["config"])
    assert there["processors"]["batch"] == local["processors"]["batch"]
    assert there["exporters"] == local["exporters"]
    assert there["service"]["pipelines"]["traces"] == local["service"]["pipelines"]["traces"]


def test_lines_reach_loki_under_the_same_labels() -> None:
    [output] = _yaml("fluent-bit.yml")["pipeline"]["outputs"]
    there = _classic(_kubernetes("fluent-bit.yaml")[0]["config"]["outputs"])
    assert there["host"] == f"{output['host']}.observe"
    assert there["port"] == str(output["port"])
    assert there["labels"] == output["labels"]
    assert set(output["label_keys"].split(",")) < set(there["label_keys"].split(","))
    assert there["line_format"] == output["line_format"]
    assert there["retry_limit"] == str(output["retry_limit"])


def test_whoever_is_called_listens_there() -> None:
    named = {
        (name, int(port))
        for path in _KUBERNETES.iterdir()
        for name, port in re.findall(r"\b([\w-]+)\.observe:(\d+)", path.read_text())
    }
    loki = _classic(_kubernetes("fluent-bit.yaml")[0]["config"]["outputs"])
    named.add((loki["host"].removesuffix(".observe"), int(loki["port"])))
    assert named == _LISTENING
    for path in _KUBERNETES.iterdir():
        for each in yaml.safe_load_all(path.read_text()):
            if each.get("kind") == "Service":
                own = {(each["metadata"]["name"], port["port"]) for port in each["spec"]["ports"]}
                assert own <= _LISTENING


# --- a pod ---


def test_one_way_of_running_a_pod_gives_metrics_and_lines() -> None:
    config, policy = _kubernetes("finflow.yaml")
    known = {setting.variable: setting for setting in SETTINGS}
    parsed = {name: known[name].parse(value) for name, value in config["data"].items() if name in known}
    assert config["data"].keys() - parsed.keys() == {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    # test_observed.py runs `finflow up` with these two.
    assert parsed["FINFLOW_LOG_TO"] == "stdout"
    _, port = parsed["FINFLOW_METRICS_ADDRESS"]
    [monitor] = _stack()["prometheus"]["additionalPodMonitors"]
    said = (_KUBERNETES / "finflow.yaml").read_text()
    assert f"{{name: {monitor['podMetricsEndpoints'][0]['port']}, containerPort: {port}}}" in said
    [(key, value)] = monitor["selector"]["matchLabels"].items()
    assert f"`{key}: {value}`" in said
    assert policy["spec"]["podSelector"] == monitor["selector"]
    inputs = _classic(_kubernetes("fluent-bit.yaml")[0]["config"]["inputs"])
    assert inputs["path"] == "/var/log/containers/finflow-*.log"
    assert "a name that begins with `finflow-`" in said


def test_the_metrics_port_is_open_to_prometheus_alone_and_every_other_port_as_before() -> None:
    config, policy = _kubernetes("finflow.yaml")
    port = int(config["data"]["FINFLOW_METRICS_ADDRESS"].rpartition(":")[2])
    others, metrics = policy["spec"]["ingress"]
    assert "from" not in others
    ranges = [range(each["port"], each["endPort"] + 1) for each in others["ports"]]
    assert sorted(number for each in ranges for number in each) == [
        number for number in range(1, 65536) if number != port
    ]
    assert [each["port"] for each in metrics["ports"]] == [port]
    [source] = metrics["from"]
    assert source.keys() == {"namespaceSelector", "podSelector"}
