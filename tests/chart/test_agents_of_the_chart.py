"""The agents' DaemonSet: how they are started, how they get at the GPUs, what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chart.support.helm import LEAST, NAMESPACE, Helm, Rendered, Values, merged
from zeus_agent import options
from zeus_agent.callers import ServiceCaller
from zeus_agent.policy_file import parse_policy
from zeus_operator.agents.endpoints import PORT_NAME
from zeus_operator.settings import AGENT_PORT
from zeus_operator.trust.objects import CERTIFICATE_SECRET, TLS_CERTIFICATE, TLS_KEY

NOT_IN_A_CLUSTER = {
    "socket",  # of one machine
    "allow_uid",
    "idle_exit_seconds",
    "kube_api",  # a pod knows it
    "kube_token_file",
    "kube_ca_file",
}


def pod(rendered: Rendered) -> dict[str, Any]:
    spec: dict[str, Any] = rendered.pods()["DaemonSet/zeus-agent"]["spec"]
    return spec


def agent(rendered: Rendered) -> dict[str, Any]:
    (container,) = pod(rendered)["containers"]
    found: dict[str, Any] = container
    return found


def arguments(rendered: Rendered) -> list[str]:
    return [each.replace("$(NODE_NAME)", "node-1") for each in agent(rendered)["args"]]


def variables(rendered: Rendered) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in agent(rendered)["env"]}


def with_agent(values: Values) -> dict[str, Any]:
    return merged(LEAST, {"agent": values})


def test_the_program_takes_its_arguments(helm: Helm) -> None:
    given = options.parse(arguments(helm.render()))

    assert given.listen == "0.0.0.0:8443"
    assert given.metrics_listen == "0.0.0.0:8080"
    assert given.node_name == "node-1"
    assert given.operator_account == ServiceCaller(NAMESPACE, "zeus-operator")
    assert given.expect_gpus


def test_every_option_that_a_cluster_needs_is_given(helm: Helm) -> None:
    named = {
        each.removeprefix("--").partition("=")[0].replace("-", "_")
        for each in arguments(helm.render())
        if each.startswith("--")
    }
    known = set(vars(options.parse(arguments(helm.render())))) - {"command"}

    assert known - named == NOT_IN_A_CLUSTER


@pytest.mark.parametrize(
    ("values", "option", "value"),
    [
        ({"settings": {"pollSeconds": 0.5}}, "poll_seconds", 0.5),
        ({"settings": {"nvmlTimeoutSeconds": 3}}, "nvml_timeout_seconds", 3.0),
        ({"settings": {"expectGpus": False}}, "expect_gpus", False),
        ({"settings": {"listenHost": "[::]", "port": 9443}}, "listen", "[::]:9443"),
        ({"settings": {"metricsPort": 9090}}, "metrics_listen", "0.0.0.0:9090"),
        ({"settings": {"logFormat": "text"}}, "log_format", "text"),
        ({"stateDirectory": "/data/zeus"}, "state_dir", Path("/data/zeus")),
        ({"kubeletDirectory": "/k"}, "pod_resources", Path("/k/pod-resources")),
        ({"extraArgs": ["--allow-uid=7"]}, "allow_uid", [7]),
    ],
)
def test_a_value_reaches_the_program(
    helm: Helm, values: Values, option: str, value: object
) -> None:
    given = options.parse(arguments(helm.render(with_agent(values))))

    assert getattr(given, option) == value


def test_every_file_that_the_program_is_told_of_is_mounted(helm: Helm) -> None:
    rendered = helm.render(with_agent({"kubeletDirectory": "/k", "stateDirectory": "/s"}))
    given = options.parse(arguments(rendered))
    mounts = {each["mountPath"] for each in agent(rendered)["volumeMounts"]}
    paths = (given.tls_cert.parent, given.tls_key.parent, given.policy.parent)

    assert {str(path) for path in (*paths, given.state_dir, given.pod_resources)} <= mounts


def test_the_certificate_may_come_later(helm: Helm) -> None:
    rendered = helm.render()
    given = options.parse(arguments(rendered))
    volume = next(each for each in pod(rendered)["volumes"] if each["name"] == "tls")

    assert volume["secret"] == {"secretName": CERTIFICATE_SECRET, "optional": True}
    assert (given.tls_cert.name, given.tls_key.name) == (TLS_CERTIFICATE, TLS_KEY)


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {
            "dryRun": True,
            "namespaces": {"allow": ["ml-*"], "deny": ["ml-test"]},
            "sharedGpus": "Allow",
            "maxChangesPerMinute": 60000,
            "persistenceMode": "Enable",
            "gpus": [
                {"model": "*A100*", "minPercent": 50, "maxPercent": 100, "defaultPercent": 90.5},
                {"model": "*", "minWatts": 100, "maxWatts": 1000},
            ],
        },
    ],
)
def test_the_policy_is_one_that_the_program_takes(helm: Helm, policy: Values) -> None:
    rendered = helm.render(with_agent({"policy": policy}))
    text = rendered.get("ConfigMap", "zeus-agent-policy")["data"]["policy.yaml"]

    found = parse_policy(text.encode())

    default = parse_policy(b"version: 1")
    assert (found == default) is (not policy)
    assert found.dry_run is bool(policy.get("dryRun"))
    assert len(found.gpus) == len(policy.get("gpus", ()))


def test_a_rate_that_was_taken_away_is_the_programs_own(helm: Helm) -> None:
    rendered = helm.render(with_agent({"policy": {"maxChangesPerMinute": None}}))
    text = rendered.get("ConfigMap", "zeus-agent-policy")["data"]["policy.yaml"]

    assert "maxChangesPerMinute" not in text
    assert parse_policy(text.encode()) == parse_policy(b"version: 1")


def test_pods_reach_the_agent_of_their_own_node_alone(helm: Helm) -> None:
    service = helm.render().get("Service", "zeus-agent")["spec"]

    assert service["internalTrafficPolicy"] == "Local"
    assert service["ports"] == [{"name": PORT_NAME, "port": AGENT_PORT, "targetPort": "https"}]


def test_limits_come_back_before_another_agent_starts(helm: Helm) -> None:
    rendered = helm.render()
    daemon_set = rendered.get("DaemonSet", "zeus-agent")["spec"]

    assert daemon_set["updateStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert pod(rendered)["terminationGracePeriodSeconds"] >= 30
    assert agent(rendered)["command"] == ["zeus-agent"]  # not a shell, which would eat SIGTERM


def test_an_agent_asks_for_no_gpu_and_enters_no_namespace_of_the_node(helm: Helm) -> None:
    rendered = helm.render()

    assert "nvidia.com/gpu" not in str(agent(rendered)["resources"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod(rendered).keys()


def test_runtime_class_lets_the_nvidia_runtime_bring_all_gpus(helm: Helm) -> None:
    rendered = helm.render(with_agent({"nvidia": {"mode": "runtimeClass"}}))

    assert pod(rendered)["runtimeClassName"] == "nvidia"
    assert variables(rendered)["NVIDIA_VISIBLE_DEVICES"] == "all"


def test_where_the_default_runtime_is_nvidias_no_class_is_named(helm: Helm) -> None:
    rendered = helm.render(with_agent({"nvidia": {"runtimeClassName": ""}}))

    assert "runtimeClassName" not in pod(rendered)


def test_cdi_names_the_devices_of_a_specification(helm: Helm) -> None:
    nvidia = {"mode": "cdi", "runtimeClassName": "nvidia-cdi", "cdiDevices": "a.example/gpu=all"}
    rendered = helm.render(with_agent({"nvidia": nvidia}))

    assert pod(rendered)["runtimeClassName"] == "nvidia-cdi"
    assert variables(rendered)["NVIDIA_VISIBLE_DEVICES"] == "a.example/gpu=all"


def test_host_path_brings_the_library_alone_from_the_node(helm: Helm) -> None:
    library = "/usr/lib64/libnvidia-ml.so.1"
    rendered = helm.render(with_agent({"nvidia": {"mode": "hostPath", "hostLibrary": library}}))
    spec = pod(rendered)
    volume = next(each for each in spec["volumes"] if each["name"] == "nvml")
    mount = next(each for each in agent(rendered)["volumeMounts"] if each["name"] == "nvml")

    assert volume["hostPath"] == {"path": library, "type": "File"}
    # The rest of the node's folder would replace the image's own C library.
    assert mount["mountPath"] == f"{variables(rendered)['LD_LIBRARY_PATH']}/libnvidia-ml.so.1"
    assert "runtimeClassName" not in spec


def test_privileged_can_be_narrowed_to_one_capability(helm: Helm) -> None:
    wide = agent(helm.render())["securityContext"]
    narrow = agent(helm.render(with_agent({"privileged": False})))["securityContext"]

    assert wide["privileged"] is True
    assert "privileged" not in narrow
    assert narrow["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert (wide["runAsUser"], narrow["runAsUser"]) == (0, 0)
    assert wide["readOnlyRootFilesystem"] is narrow["readOnlyRootFilesystem"] is True


def test_agents_run_where_gpus_are_whatever_the_nodes_taints(helm: Helm) -> None:
    spec = pod(helm.render())

    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [{"operator": "Exists"}]


def test_another_label_of_nodes_replaces_the_usual_one(helm: Helm) -> None:
    selector = {"nvidia.com/gpu.present": None, "cloud.google.com/gke-accelerator": "nvidia-l4"}

    spec = pod(helm.render(with_agent({"nodeSelector": selector})))

    assert spec["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
