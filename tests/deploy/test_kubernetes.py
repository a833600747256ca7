# SPDX-License-Identifier: Apache-2.0
"""The manifests for Kubernetes: rendered as `kubectl apply -k` does, held against its schemas and ours.

All that holds for one relay's holds for a fleet's.
"""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from control import settings
from control.config import Config
from tests.netns.test_capabilities import NEEDED
from transceiver.main import main as transceiver
from transceiver.peers import Known

DEPLOY = Path(__file__).parents[2] / "deploy"
ONE, FLEET = "kubernetes", "kubernetes-fleet"
# The oldest that is still supported, at the time of writing, and the newest that there are schemas of.
VERSIONS = ("1.33", kubernetes_validate.latest_version())
Manifest = dict[str, Any]


@cache
def rendered(folder: str) -> list[Manifest]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


class Manifests(list[Manifest]):
    """Of one folder."""

    def one(self, kind: str, name: str) -> Manifest:
        """A generated one has a hash behind its name."""
        generated = re.compile(rf"{name}(-[a-z0-9]{{10}})?")
        (found,) = (
            one for one in self if one["kind"] == kind and generated.fullmatch(one["metadata"]["name"])
        )
        return found


@pytest.fixture(params=[ONE, FLEET])
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return Manifests(rendered(request.param))


def pod_of(workload: Manifest) -> Manifest:
    return workload["spec"]["template"]["spec"]  # type: ignore[no-any-return]


@pytest.fixture
def relay(manifests: Manifests) -> Manifest:
    return copy.deepcopy(manifests.one("DaemonSet", "earshot-relay"))


@pytest.fixture
def calls(manifests: Manifests) -> Manifest:
    (kind,) = {one["kind"] for one in manifests} & {"Deployment", "StatefulSet"}
    return copy.deepcopy(manifests.one(kind, "earshot-transceiver"))


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas(manifests: Manifests, version: str) -> None:
    kinds = [one["kind"] for one in manifests]
    for kind in ("DaemonSet", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap", "Service"):
        assert kind in kinds
    for one in manifests:
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_would_find_a_slip(calls: Manifest) -> None:
    pod_of(calls)["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(calls, VERSIONS[0], strict=True)


def test_what_is_referred_to_is_there(manifests: Manifests, relay: Manifest, calls: Manifest) -> None:
    for workload in (relay, calls):
        spec, pod = workload["spec"], pod_of(workload)
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        manifests.one("ServiceAccount", pod["serviceAccountName"])
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["image"].startswith("registry.example/earshot:")
    (config,) = (one["configMap"]["name"] for one in pod_of(relay)["volumes"] if "configMap" in one)
    assert manifests.one("ConfigMap", "earshot-relay")["metadata"]["name"] == config
    for service, workload in (("earshot-relay", relay), ("earshot-transceiver", calls)):
        assert (
            manifests.one("Service", service)["spec"]["selector"]
            == workload["spec"]["selector"]["matchLabels"]
        )
        (port,) = manifests.one("Service", service)["spec"]["ports"]
        ports = {one["name"] for one in pod_of(workload)["containers"][0]["ports"]}
        assert port["targetPort"] in ports
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        selector = {
            k: v for k, v in manifests.one(kind, "earshot-transceiver")["spec"].items() if "elector" in k
        }
        assert list(selector.values()) == [calls["spec"]["selector"]]


def test_the_relays_configuration_is_one(manifests: Manifests, relay: Manifest) -> None:
    config = relay_config(manifests, relay)
    assert config.grpc_listen is not None
    (port,) = pod_of(relay)["containers"][0]["ports"]
    assert port["containerPort"] == config.grpc_listen.port
    probed = pod_of(relay)["containers"][0]["livenessProbe"]["httpGet"]
    assert config.metrics_listen == (probed["host"], probed["port"])
    # NodePorts are the node's, and on the relay's own addresses.
    assert config.relay_ports.last < 30000
    pins = {mount["name"]: mount["mountPath"] for mount in pod_of(relay)["containers"][0]["volumeMounts"]}
    assert str(config.pin_path) == pins["pins"]
    assert str(config.grpc_socket.parent) == pins["run"]
    assert config.tls_key is not None
    assert str(config.tls_key.parent) == pins["tls"]


def test_the_relay_has_what_it_needs_and_no_more(relay: Manifest) -> None:
    pod = pod_of(relay)
    assert pod["hostNetwork"] is True
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": [name.upper() for name in NEEDED]}
    assert context["runAsNonRoot"] is True
    assert "privileged" not in context
    (prepare,) = pod["initContainers"]
    assert prepare["command"][1:] == ["/sys/fs/bpf/earshot", str(context["runAsUser"])]


def known_to(calls: Manifest) -> dict[str, str | None]:
    """What transceivers are told by their environment: nothing that they have no flag for."""
    (container,) = pod_of(calls)["containers"]
    given = {one["name"]: one.get("value") for one in container["env"]}
    known = {
        option.envvar or f"EARSHOT_TRANSCEIVER_{str(option.name).upper()}"
        for option in transceiver.params
        if isinstance(option, click.Option)
    }
    assert set(given) <= known
    return given


def host_of(service: Manifest) -> str:
    (port,) = service["spec"]["ports"]
    return f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{port['port']}"


def test_transceivers_are_told_what_they_know(manifests: Manifests, calls: Manifest) -> None:
    given = known_to(calls)
    relays = given["EARSHOT_TRANSCEIVER_RELAY"]
    assert relays is not None
    if calls["kind"] == "Deployment":
        assert relays == host_of(manifests.one("Service", "earshot-relay"))
    else:
        assert relays == f"all:{host_of(manifests.one('Service', 'earshot-relays'))}"


def test_a_fleet_is_told_of_itself() -> None:
    manifests = Manifests(rendered(FLEET))
    relay, calls = (
        manifests.one("DaemonSet", "earshot-relay"),
        manifests.one("StatefulSet", "earshot-transceiver"),
    )
    config, given = relay_config(manifests, relay), known_to(calls)
    # The same region and key; each finds its file where the secret is.
    assert config.region == given["EARSHOT_TRANSCEIVER_REGION"]
    assert [str(key) for key in config.fleet_keys] == [given["EARSHOT_TRANSCEIVER_FLEET_KEY"]]
    for workload in (relay, calls):
        pod = pod_of(workload)
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["fleet"] == str(config.fleet_keys[0].path.parent)
        (secret,) = (one["secret"] for one in pod["volumes"] if one["name"] == "fleet")
        assert secret["secretName"] == "earshot-fleet"
    # Each pod has a number and a name, by which the others find it: also while it drains.
    (container,) = pod_of(calls)["containers"]
    fields = {
        one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in container["env"]
        if "valueFrom" in one
    }
    assert fields["EARSHOT_TRANSCEIVER_FLEET_NUMBER"] == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert fields["EARSHOT_TRANSCEIVER_NAME"] == "metadata.name"
    peers = manifests.one("Service", calls["spec"]["serviceName"])
    assert peers["spec"]["publishNotReadyAddresses"] is True
    assert given["EARSHOT_TRANSCEIVER_PEER_TEMPLATE"] == f"http://{{name}}.{host_of(peers)}"
    known = Known({}, f"http://{{name}}.{host_of(peers)}")
    assert known.url_of("earshot-transceiver-0") == f"http://earshot-transceiver-0.{host_of(peers)}"
    for service in (peers, manifests.one("Service", "earshot-relays")):
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["selector"] in (
            relay["spec"]["selector"]["matchLabels"],
            calls["spec"]["selector"]["matchLabels"],
        )
    # Their certificates are those that one relay's has: for the one name.
    assert given["EARSHOT_TRANSCEIVER_RELAY_SERVER_NAME"] == "earshot-relay.earshot.svc"


def test_transceivers_drain_before_they_are_killed(calls: Manifest) -> None:
    pod = pod_of(calls)
    (container,) = pod["containers"]
    (drain,) = (
        float(one["value"]) for one in container["env"] if one["name"] == "EARSHOT_TRANSCEIVER_DRAIN_TIMEOUT"
    )
    pause = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= drain + pause + 30
    assert container["readinessProbe"]["httpGet"] == {"port": "http", "path": "/readyz"}


def test_policies_let_through_what_is_needed(manifests: Manifests, relay: Manifest, calls: Manifest) -> None:
    config = relay_config(manifests, relay)
    assert config.grpc_listen is not None
    policy = manifests.one("NetworkPolicy", "earshot-transceiver")["spec"]
    names = {port["name"] for port in pod_of(calls)["containers"][0]["ports"]}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    relays = [rule for rule in policy["egress"] if "ipBlock" in rule["to"][0]]
    assert [rule["ports"] for rule in relays] == [
        [
            {"port": config.grpc_listen.port, "protocol": "TCP"},
            {"port": config.relay_ports.first, "endPort": config.relay_ports.last, "protocol": "UDP"},
        ]
    ]
    networks = {ip_network(rule["to"][0]["ipBlock"]["cidr"]) for rule in relays}
    assert networks == {
        ip_network(rule["from"][0]["ipBlock"]["cidr"])
        for rule in policy["ingress"]
        if "ipBlock" in rule["from"][0]
    }


def relay_config(manifests: Manifests, relay: Manifest) -> Config:
    """As earshotd makes it of the file and the environment, on a node with the address 10.20.0.1."""
    given = {one["name"]: one.get("value", "node-1") for one in pod_of(relay)["containers"][0]["env"]}
    environment = {name: value.replace("$(HOST_IP)", "10.20.0.1") for name, value in given.items()}
    ours = {name for name in environment if name.startswith("EARSHOT_")}
    assert ours <= {settings.environment_name(key) for key in settings.KEYS}
    text = manifests.one("ConfigMap", "earshot-relay")["data"]["earshotd.toml"]
    return settings.build(tomllib.loads(text), environment, {})
