"""What is in deploy/ to run nodes with fits the node: its options, ports, paths, times and exit codes."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from support.deploy_files import (
    COMPOSE,
    DOCKERFILE,
    KUBERNETES,
    UNIT,
    ZONES,
    dockerfile,
    documents,
    manifest,
    stateful_set,
    texts,
    unit,
)
from support.deployed import DEPLOY

from pulsering import limits
from pulsering_server.cli.app import build_app
from pulsering_server.config import ClusterConfig, read_config, read_text
from pulsering_server.config_advice import Machine, advise
from pulsering_server.config_overrides import NONE
from pulsering_server.serve import MISCONFIGURED
from pulsering_server.units import parse_size

pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="only the wheel is here, no sources")

REPOSITORY = DEPLOY.parent
DRAINED_S = (limits.DRAIN_MS + 2 * limits.STOP_GRACE_MS) / 1000
"""From SIGTERM to exit 0, of all cores."""
TTL_S = 20
ANYONE = Machine(None, None)
PORT, ADMIN_PORT = 7400, 8400
PROCESS_BYTES = 200 << 20
"""Beside table and buffers."""


def given_to(verb: str, words: list[str]) -> dict[str, Any]:
    """What a command line means to the real command; a mistake in it fails."""
    group: Any = typer.main.get_command(build_app([verb]))
    params: dict[str, Any] = group.commands[verb].make_context(verb, list(words)).params
    return params


def test_releases_and_deployments_have_one_version() -> None:
    for path, text in texts():
        for version in re.findall(r"pulsering:(\d+\.\d+\.\d+)", text):
            assert version == importlib.metadata.version("pulsering"), path.name


# --- Container ----------------------------------------------------------------------------------------------


def test_the_image_is_built_in_one_stage_and_run_in_another_without_privilege() -> None:
    steps = dockerfile()
    stages = [rest for word, rest in steps if word == "FROM"]
    assert len(stages) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim-[a-z]+( AS build)?", stage) for stage in stages)
    last = steps[max(index for index, (word, _) in enumerate(steps) if word == "FROM") :]
    said = dict(last)
    assert said["USER"].split(":")[0].isdecimal(), (
        "Kubernetes can only tell from a number that it is not root"
    )
    assert int(said["USER"].split(":")[0]) > 0
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert said["EXPOSE"].split() == [str(PORT), str(ADMIN_PORT)]
    assert not [rest for word, rest in last if word == "RUN" and "apt-get" in rest], "no compiler stays in it"
    assert all("--from=build" in rest for word, rest in last if word == "COPY")


def test_the_image_is_made_of_files_that_there_are_and_that_its_context_has() -> None:
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for word, rest in dockerfile():
        if word == "COPY" and "--from" not in rest:
            for name in rest.split()[:-1]:
                assert (REPOSITORY / name).exists(), name
                assert f"!{name}" in ignored, name


def test_the_image_starts_a_node_when_told_which() -> None:
    said = dict(dockerfile())
    assert (said["ENTRYPOINT"], said["CMD"]) == ('["pulsering"]', '["serve"]')
    assert "PULSERING_CONFIG=/etc/pulsering/cluster.yaml" in said["ENV"]


# --- Compose ------------------------------------------------------------------------------------------------


def compose_nodes() -> tuple[dict[str, Any], ClusterConfig]:
    (compose,) = documents(COMPOSE)
    reading = read_config(COMPOSE.with_name("cluster.yaml"), NONE)
    assert not advise(reading, ANYONE)
    return compose["services"], reading.config


def test_each_node_of_the_compose_file_is_one_of_its_configuration() -> None:
    services, config = compose_nodes()
    assert set(services) == {node.name for node in config.nodes}
    assert len(services) == 3
    for node in config.nodes:
        service = services[node.name]
        verb, *options = service["command"]
        assert given_to(verb, options)["name"] == node.name
        assert service["hostname"] == node.name == node.address.host
        assert node.address.port == PORT
        (volume,) = service["volumes"]
        assert (COMPOSE.parent / volume["source"]).is_file()
        assert volume["target"] == "/etc/pulsering/cluster.yaml"


def test_a_node_in_a_container_may_do_little_and_has_what_it_needs() -> None:
    services, config = compose_nodes()
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert seconds(service["stop_grace_period"]) > DRAINED_S
        assert service["ulimits"]["nofile"] >= config.limits.connections + limits.FILES_RESERVED
        needed = config.limits.memory_bytes + config.limits.buffers_bytes + PROCESS_BYTES
        assert parse_size(service["mem_limit"].replace("g", "GiB"), 0, 1 << 50) >= needed
        assert seconds(service["healthcheck"]["start_period"]) > config.ttl_ms / 1000
        assert f":{ADMIN_PORT}/-/ready" in service["healthcheck"]["test"][-1]
        compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")
        build = service["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == REPOSITORY
        assert (REPOSITORY / build["dockerfile"]) == DOCKERFILE


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


# --- systemd ------------------------------------------------------------------------------------------------

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not here: apt-get install -y --no-install-recommends systemd",
)


@pytest.fixture
def unit_here(tmp_path: Path) -> Path:
    """The unit, for a node named a, with the command where it is on this machine."""
    text = UNIT.read_text("utf-8").replace(
        "/opt/pulsering/bin/pulsering", f"{sys.executable} -m pulsering_server"
    )
    path = tmp_path / "pulsering@a.service"
    path.write_text(text, "utf-8")
    return path


def analyze(*words: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip(), done.stderr


@needs_systemd
def test_systemd_finds_no_fault_with_the_unit(unit_here: Path) -> None:
    analyze("verify", "--man=no", str(unit_here))


@needs_systemd
def test_systemd_calls_the_unit_well_protected(unit_here: Path) -> None:
    """On its scale of 0 to 10; a service without any of it has 9.6."""
    analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(unit_here))


def test_the_unit_starts_a_node_by_name_and_reloads_it_by_signal() -> None:
    settings = unit()
    (start,) = settings["ExecStart"]
    program, verb, *options = start.split()
    assert program.endswith("/bin/pulsering")
    given = given_to(verb, options)
    assert given["name"] == "%i"
    assert given["config"] == Path("/etc/pulsering/cluster.yaml")
    assert settings["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert settings["Type"] == ["notify"], "the node says when it is warm"


def test_the_unit_gives_a_node_its_time_and_does_not_try_in_vain() -> None:
    settings = unit()
    assert int(settings["TimeoutStopSec"][0]) > DRAINED_S
    assert int(settings["WatchdogSec"][0]) >= 10
    assert settings["RestartPreventExitStatus"] == [str(MISCONFIGURED)]
    assert settings["Restart"] == ["on-failure"], "whoever drains a node does not want it back at once"
    assert settings["KillMode"] == ["mixed"], "SIGTERM to each core as well would be the second one"
    assert int(settings["LimitNOFILE"][0]) >= limits.CONNECTIONS + limits.FILES_RESERVED


def test_the_unit_runs_as_the_user_that_is_made_for_it() -> None:
    user = unit()["User"][0]
    made = UNIT.with_name("pulsering.sysusers.conf").read_text("utf-8")
    assert re.search(rf'^u {user} - "', made, re.MULTILINE)


# --- Kubernetes ---------------------------------------------------------------------------------------------


@cache
def kubernetes_config() -> ClusterConfig:
    reading = read_text(manifest("ConfigMap")["data"]["cluster.yaml"], "cluster.yaml", NONE)
    assert not advise(reading, ANYONE)
    return reading.config


def container(path: Path) -> dict[str, Any]:
    (found,) = stateful_set(path)["spec"]["template"]["spec"]["containers"]
    result: dict[str, Any] = found
    return result


def test_the_files_of_the_zones_differ_in_nothing_but_the_zone() -> None:
    assert [path.stem for path in ZONES] == ["zone-a", "zone-b", "zone-c"]
    general = {
        re.sub(rf"(zone|pulsering)-{path.stem[-1]}\b", r"\1-*", path.read_text("utf-8")) for path in ZONES
    }
    assert len(general) == 1


def test_each_pod_is_a_node_of_the_configuration_at_the_name_that_its_service_gives_it() -> None:
    config = kubernetes_config()
    service = manifest("Service")
    domain = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    pods = {}
    for path in ZONES:
        made = stateful_set(path)
        assert made["spec"]["serviceName"] == service["metadata"]["name"]
        assert made["metadata"]["namespace"] == service["metadata"]["namespace"]
        for index in range(made["spec"]["replicas"]):
            name = f"{made['metadata']['name']}-{index}"
            pods[name] = (f"{name}.{domain}", PORT, path.stem)
    assert pods == {node.name: (*node.address, node.zone) for node in config.nodes}
    assert all(node.cores == 1 for node in config.nodes), "a probe asks one port"


@pytest.mark.parametrize("path", ZONES, ids=lambda path: path.stem)
def test_a_pod_serves_its_node_where_the_others_look_for_it(path: Path) -> None:
    config, made = kubernetes_config(), container(path)
    verb, *options = made["args"]
    given = given_to(verb, options)
    assert (given["name"], given["host"], given["port"]) == ("$(POD_NAME)", "$(POD_IP)", None)
    fields = {each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"] for each in made["env"]}
    assert fields == {"POD_NAME": "metadata.name", "POD_IP": "status.podIP"}
    ports = {each["name"]: each["containerPort"] for each in made["ports"]}
    assert ports == {"presence": PORT, "admin": ADMIN_PORT}
    for node in config.nodes:
        assert node.admin is not None
        assert tuple(node.admin) == ("0.0.0.0", ADMIN_PORT), "probes come from outside"
    for port in manifest("Service")["spec"]["ports"]:
        assert port["port"] == ports[port["targetPort"]]


@pytest.mark.parametrize("path", ZONES, ids=lambda path: path.stem)
def test_mounts_are_where_image_and_configuration_look(path: Path) -> None:
    spec = stateful_set(path)["spec"]["template"]["spec"]
    mounts = {each["name"]: each for each in container(path)["volumeMounts"]}
    assert mounts.keys() == {each["name"] for each in spec["volumes"]}
    assert not any("subPath" in mount for mount in mounts.values()), "a file of its own never changes"
    assert mounts["config"]["mountPath"] == "/etc/pulsering"
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert volumes["config"]["configMap"]["name"] == manifest("ConfigMap")["metadata"]["name"]
    text = (KUBERNETES / "cluster.yaml").read_text("utf-8")
    assert f"create secret generic {volumes['tokens']['secret']['secretName']} " in text
    config = kubernetes_config()
    for file in (config.admin.token_file, config.auth.token_file):
        assert file is not None
        assert Path(file).parent == Path(mounts["tokens"]["mountPath"])
        assert f"--from-literal={Path(file).name}=" in text
    assert f"create secret tls {volumes['tls']['secret']['secretName']} " in text
    directory = mounts["tls"]["mountPath"]
    assert (config.tls.certificate, config.tls.key) == (f"{directory}/tls.crt", f"{directory}/tls.key")
    assert not config.tls.admin, "probes speak HTTP"


@pytest.mark.parametrize("path", ZONES, ids=lambda path: path.stem)
def test_an_update_never_has_two_cold_nodes(path: Path) -> None:
    spec = stateful_set(path)["spec"]
    ttl_s = kubernetes_config().ttl_ms / 1000
    assert spec["minReadySeconds"] > ttl_s
    assert spec["updateStrategy"] == {"type": "RollingUpdate"}
    probes = {name: container(path)[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    asked = {name: probe["httpGet"] for name, probe in probes.items()}
    assert all(each["port"] == "admin" for each in asked.values())
    assert {name: each["path"] for name, each in asked.items()} == {
        "startup": "/-/healthy", "liveness": "/-/healthy", "readiness": "/-/ready",
    }  # fmt: skip
    liveness = probes["liveness"]
    assert liveness["timeoutSeconds"] * liveness["failureThreshold"] >= 30, "a slow node is better than none"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > DRAINED_S


def test_drains_of_machines_take_one_node_at_a_time_of_all_zones() -> None:
    budget, service = manifest("PodDisruptionBudget")["spec"], manifest("Service")["spec"]
    assert budget["maxUnavailable"] == 1
    for path in ZONES:
        labels = stateful_set(path)["spec"]["template"]["metadata"]["labels"]
        for selector in (budget["selector"]["matchLabels"], service["selector"]):
            assert selector.items() <= labels.items()
        assert stateful_set(path)["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_nodes_that_warm_up_can_be_found() -> None:
    service = manifest("Service")["spec"]
    assert service["publishNotReadyAddresses"] is True
    assert service["clusterIP"] == "None" or service["clusterIP"] is None


@pytest.mark.parametrize("path", ZONES, ids=lambda path: path.stem)
def test_a_pod_may_do_little_and_has_what_it_needs(path: Path) -> None:
    spec, made = stateful_set(path)["spec"]["template"]["spec"], container(path)
    (user,) = [rest for word, rest in dockerfile() if word == "USER"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}" == user
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert made["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    config, resources = kubernetes_config(), made["resources"]
    memory = parse_size(f"{resources['limits']['memory']}B", 0, 1 << 50)
    assert memory >= config.limits.memory_bytes + config.limits.buffers_bytes + PROCESS_BYTES
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert "cpu" not in resources["limits"], "a throttled node is a late one"
