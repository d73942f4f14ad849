"""Trust in agents on a real API server, with the rights in deploy/ and no others."""

from __future__ import annotations

import base64
import contextlib
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.support.api import Api, ApiFailure, Object
from tests.cluster.support.control_plane import ControlPlane, KubectlError
from tests.cluster.support.endings import Gate, held
from tests.cluster.support.installed import OPERATOR_NAMESPACE, SERVICE_ACCOUNT, allow_lease
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.namespaces import create_namespace, remove_namespace
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.api.rbac import namespaced
from zeus_operator.kube import MERGE_PATCH, KubeClient, Refused, load_configuration
from zeus_operator.leader import LeadershipLost
from zeus_operator.trust.certificates import issuer_of, read_authorities, read_leaf
from zeus_operator.trust.keeper import TrustKeeper, Where
from zeus_operator.trust.plan import AUTHORITY_LIFE, CERTIFICATE_LIFE

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]
MakeNamespace = Callable[[], str]
CA, TLS = "zeus-agent-ca", "zeus-agent-tls"
ENABLED = {"metadata": {"labels": {"zeus.energy/agent-access": "enabled"}}}
DISABLED = {"metadata": {"labels": {"zeus.energy/agent-access": None}}}
DAY = timedelta(days=1)


class Trust:
    """What there is of it in a namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def path(self, kind: str, name: str, namespace: str = "") -> str:
        return f"/api/v1/namespaces/{namespace or self.namespace}/{kind}/{name}"

    def secret(self, name: str) -> Object | None:
        return self.api.find(self.path("secrets", name))

    def texts(self, name: str) -> dict[str, str]:
        data = (self.secret(name) or {}).get("data") or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def published(self, namespace: str = "") -> str:
        found = self.api.find(self.path("configmaps", CA, namespace))
        return str((found or {}).get("data", {}).get("ca.crt", ""))

    def is_whole(self) -> bool:
        """Whether the certificate is signed by an authority that is published."""
        leaf = read_leaf(*(self.texts(TLS).get(key, "") for key in ("tls.crt", "tls.key")))
        if leaf is None:
            return False
        authorities, _ = read_authorities(self.published(), "")
        return issuer_of(leaf, authorities) is not None

    def edit(self, name: str, **texts: str | None) -> None:
        """Replace values of a Secret; None: take them out."""
        values = {
            key.replace("_", "."): None
            if text is None
            else base64.b64encode(text.encode()).decode()
            for key, text in texts.items()
        }
        self.api.patch(self.path("secrets", name), {"data": values})


@pytest.fixture
def trust(api: Api, namespace: str) -> Trust:
    return Trust(api, namespace)


@pytest.fixture
def make_namespace(cluster: ControlPlane) -> Iterator[MakeNamespace]:
    """Return a factory of further namespaces."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test-{uuid.uuid4().hex[:10]}")
        create_namespace(cluster, made[-1])
        return made[-1]

    yield make
    for name in made:
        remove_namespace(cluster, name)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakeKeeper = Callable[..., TrustKeeper]


def may_read_authority(cluster: ControlPlane, namespace: str) -> bool:
    user = f"--as=system:serviceaccount:{OPERATOR_NAMESPACE}:{SERVICE_ACCOUNT}"
    try:
        cluster.kubectl("auth", "can-i", "get", f"secrets/{CA}", "-n", namespace, user)
    except KubectlError:
        return False
    return True


@pytest.fixture
def make_keeper(
    cluster: ControlPlane, namespace: str, service_account: Path, clock: Clock
) -> Iterator[MakeKeeper]:
    """Return a factory of keepers with the operator's rights, for the namespace of the test.

    `make_keeper(kind, guard, watched, account)`: `kind` is the class of its client.
    """
    allow_lease(cluster, namespace)
    eventually(lambda: may_read_authority(cluster, namespace), "the rights are in force")
    clients: list[KubeClient] = []

    def make(
        kind: Callable[..., KubeClient] = KubeClient,
        guard: Callable[[], None] = lambda: None,
        watched: tuple[str, ...] = (),
        account: Path = service_account,
    ) -> TrustKeeper:
        clients.append(kind(load_configuration(str(account))))
        where = Where(namespace, watched or (namespace,))
        return TrustKeeper(clients[-1], where, [f"zeus-agent.{namespace}.svc"], guard, clock)

    yield make
    for client in clients:
        client.close()


# The operator itself ---------------------------------------------------------------


def test_an_operator_with_agents_makes_secrets_and_publishes_where_a_label_asks_for_it(
    api: Api,
    namespace: str,
    trust: Trust,
    make_operator: MakeOperator,
    make_namespace: MakeNamespace,
) -> None:
    other = make_namespace()
    operator = make_operator(
        agent_service=f"zeus-agent.{namespace}", agent_trust_seconds="1", watch_namespaces=""
    )
    operator.start().wait_until_leading()

    assert trust.secret(TLS), "before anything can start"
    eventually(trust.is_whole, "its authority is published soon")
    assert trust.texts(CA).keys() == {"ca.crt", "ca.key"}
    assert trust.texts(TLS).keys() == {"tls.crt", "tls.key"}, "the authority's key is not in it"
    assert trust.published(other) == ""

    api.patch(f"/api/v1/namespaces/{other}", ENABLED)
    eventually(lambda: trust.published(other) == trust.published(), "it is published there")
    api.patch(f"/api/v1/namespaces/{other}", DISABLED)
    eventually(lambda: trust.published(other) == "", "it is withdrawn")
    assert trust.published() != "", "the operator's own namespace has it anyhow"

    before = trust.texts(TLS)["tls.crt"]
    api.delete(trust.path("secrets", TLS))
    eventually(lambda: trust.is_whole(), "the certificate is made anew")
    assert trust.texts(TLS)["tls.crt"] != before
    before = trust.published()
    api.delete(trust.path("secrets", CA))
    eventually(lambda: trust.published() != before and trust.is_whole(), "all is made anew")
    assert "forbidden" not in operator.log


def test_an_operator_without_agents_makes_nothing(
    zeusjobs: ZeusJobs, trust: Trust, make_operator: MakeOperator
) -> None:
    make_operator().start().wait_until_leading()
    zeusjobs.apply("job", runs=1)
    eventually(zeusjobs.jobs, "its child is there")

    assert (trust.secret(CA), trust.secret(TLS), trust.published()) == (None, None, "")
    assert "ZEUS_AGENT" not in environment(zeusjobs.jobs()[0])


def test_a_run_is_told_of_the_agent_and_whom_to_trust(
    namespace: str,
    zeusjobs: ZeusJobs,
    trust: Trust,
    make_operator: MakeOperator,
    make_node: MakeNode,
) -> None:
    make_node(held(Gate(), SyntheticJob()))
    make_operator(agent_service=f"zeus-agent.{namespace}").start().wait_until_leading()
    zeusjobs.apply("job", runs=1)
    eventually(zeusjobs.jobs, "its child is there")

    (job,) = zeusjobs.jobs()
    told = environment(job)
    assert told["ZEUS_AGENT"] == f"https://zeus-agent.{namespace}.svc:8443"
    eventually(lambda: told["ZEUS_AGENT_CA"] == trust.published(), "the same is published")
    pod = job["spec"]["template"]["spec"]
    (source,) = pod["volumes"][0]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "zeus-agent"


def test_without_the_rights_runs_start_all_the_same_and_the_log_says_what_is_missing(
    cluster: ControlPlane,
    namespace: str,
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
) -> None:
    """As after an update of the operator that forgot deploy/rbac.yaml."""
    operator = make_operator(agent_service=f"zeus-agent.{namespace}", agent_trust_seconds="1")
    cluster.kubectl("delete", "rolebinding", "zeus-operator-agents", "-n", namespace)
    operator.start().wait_until_leading()
    zeusjobs.apply("job", runs=1)

    eventually(zeusjobs.jobs, "its child is there")
    assert "ZEUS_AGENT" not in environment(zeusjobs.jobs()[0])
    said = [line for line in operator.log.splitlines() if "trust in agents" in line]
    assert len(said) == 1, "once, not at each look"
    assert f'secrets "{CA}" is forbidden' in said[0]


def environment(job: Object) -> dict[str, str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


# Rotation --------------------------------------------------------------------------


def test_over_the_years_whoever_started_a_year_ago_trusts_the_certificate(
    trust: Trust, make_keeper: MakeKeeper, clock: Clock
) -> None:
    keeper = make_keeper()
    seen: list[tuple[datetime, str]] = []
    issuers = set()
    for _ in range(60):  # ten years
        assert keeper.look() == ()
        assert trust.published() == keeper.bundle
        seen.append((clock.now, keeper.bundle))
        leaf = read_leaf(*(trust.texts(TLS)[key] for key in ("tls.crt", "tls.key")))
        assert leaf is not None
        assert clock.now < leaf.certificate.not_valid_after_utc
        for moment, bundle in seen:
            if clock.now - moment <= 365 * DAY:
                assert issuer_of(leaf, read_authorities(bundle, "")[0]) is not None
        issuers.add(leaf.certificate.issuer.rfc4514_string())
        clock.now += CERTIFICATE_LIFE * (2 / 3) + DAY
    assert len(issuers) >= 3


def test_a_look_that_finds_everything_in_order_writes_nothing(
    trust: Trust, make_keeper: MakeKeeper
) -> None:
    keeper = make_keeper()
    keeper.look()
    objects = [
        trust.path("secrets", CA),
        trust.path("secrets", TLS),
        trust.path("configmaps", CA),
    ]
    before = [trust.api.get(path)["metadata"]["resourceVersion"] for path in objects]
    assert make_keeper().look() == (), "another process finds it in order, too"
    assert keeper.look() == ()
    assert [trust.api.get(path)["metadata"]["resourceVersion"] for path in objects] == before


def test_everything_expired_while_nobody_looked(
    trust: Trust, make_keeper: MakeKeeper, clock: Clock
) -> None:
    make_keeper().look()
    before = trust.published()
    clock.now += AUTHORITY_LIFE + 400 * DAY
    assert make_keeper().look() == ()
    assert trust.published() not in ("", before)
    assert trust.is_whole()


def test_a_clock_that_jumps_ahead_and_back_loses_no_authority(
    trust: Trust, make_keeper: MakeKeeper, clock: Clock
) -> None:
    keeper = make_keeper()
    keeper.look()
    before = keeper.bundle
    clock.now += 4000 * DAY
    keeper.look()
    clock.now -= 4000 * DAY
    assert keeper.look() == ()
    assert before in keeper.bundle
    leaf = read_leaf(*(trust.texts(TLS)[key] for key in ("tls.crt", "tls.key")))
    assert leaf is not None
    assert leaf.certificate.not_valid_before_utc <= clock.now
    assert issuer_of(leaf, read_authorities(before, "")[0]) is not None, "runs still trust it"


# What others do to the objects ------------------------------------------------------


def test_a_key_that_is_gone_or_broken_is_replaced_and_what_it_signed_stays_trusted(
    trust: Trust, make_keeper: MakeKeeper
) -> None:
    make_keeper().look()
    old = trust.published()
    certificate = trust.texts(TLS)["tls.crt"]
    for broken in (None, "no key at all"):
        trust.edit(CA, ca_key=broken)
        assert make_keeper().look() == ()
        assert old in trust.published()
        assert "BEGIN PRIVATE KEY" in trust.texts(CA)["ca.key"]
    assert trust.texts(TLS)["tls.crt"] == certificate, "there was no need to change it"


@pytest.mark.parametrize("change", [{"tls_crt": "-----BEGIN"}, {"tls_key": ""}, {"tls_crt": ""}])
def test_a_certificate_that_is_half_written_is_issued_again(
    trust: Trust, make_keeper: MakeKeeper, change: dict[str, str]
) -> None:
    make_keeper().look()
    trust.edit(TLS, **change)
    assert not trust.is_whole()
    assert make_keeper().look() == ()
    assert trust.is_whole()


def test_what_others_add_to_a_secret_stays(trust: Trust, make_keeper: MakeKeeper) -> None:
    make_keeper().look()
    path = trust.path("secrets", TLS)
    trust.api.patch(path, {"metadata": {"annotations": {"example.org/backup": "yes"}}})
    trust.edit(TLS, tls_crt="", note="theirs")
    make_keeper().look()
    assert trust.is_whole()
    assert trust.texts(TLS)["note"] == "theirs"
    assert trust.api.get(path)["metadata"]["annotations"] == {"example.org/backup": "yes"}


def test_a_secret_of_the_users_own_making_is_filled_in(
    trust: Trust, make_keeper: MakeKeeper
) -> None:
    collection = f"/api/v1/namespaces/{trust.namespace}/secrets"
    for name in (CA, TLS):
        trust.api.post(collection, {"metadata": {"name": name}, "type": "Opaque"})
    assert make_keeper().look() == ()
    assert trust.is_whole()


def test_a_config_map_that_somebody_changes_is_made_right_again(
    trust: Trust, make_keeper: MakeKeeper
) -> None:
    keeper = make_keeper()
    keeper.look()
    path = trust.path("configmaps", CA)
    trust.api.patch(path, {"data": {"ca.crt": "mine", "other": "theirs"}})
    assert keeper.look() == ()
    assert trust.api.get(path)["data"] == {"ca.crt": keeper.bundle, "other": "theirs"}


def test_a_config_map_that_somebody_else_made_is_not_deleted(
    trust: Trust, make_keeper: MakeKeeper, make_namespace: MakeNamespace
) -> None:
    foreign = make_namespace()
    body = {"metadata": {"name": CA}, "data": {"ca.crt": "theirs"}}
    trust.api.post(f"/api/v1/namespaces/{foreign}/configmaps", body)
    assert make_keeper(watched=(trust.namespace, foreign)).look() == ()
    assert trust.published(foreign) == "theirs"


def test_a_namespace_that_is_ending_keeps_nobody_from_it(
    trust: Trust, make_keeper: MakeKeeper, make_namespace: MakeNamespace
) -> None:
    ending, other = make_namespace(), make_namespace()
    # A finalizer of somebody's holds it.
    body = {"metadata": {"name": "held", "finalizers": ["example.org/held"]}}
    trust.api.post(f"/api/v1/namespaces/{ending}/configmaps", body)
    for name in (ending, other):
        trust.api.patch(f"/api/v1/namespaces/{name}", ENABLED)
    trust.api.delete(f"/api/v1/namespaces/{ending}")
    try:
        assert make_keeper(watched=(ending, other)).look() == ()
        assert trust.published(other) == trust.published() != ""
    finally:
        held_path = trust.path("configmaps", "held", ending)
        with contextlib.suppress(ApiFailure):
            trust.api.patch(held_path, {"metadata": {"finalizers": None}})


# Two at once -----------------------------------------------------------------------


class Interrupted(KubeClient):
    """A client before whose first write of a Secret something else happens."""

    def __init__(self, *arguments: Any, meanwhile: Callable[[], object]) -> None:
        super().__init__(*arguments)
        self._meanwhile: Callable[[], object] | None = meanwhile

    def request(self, method: str, path: str, **rest: Any) -> Object:
        if method in ("POST", "PUT") and "/secrets" in path and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return super().request(method, path, **rest)


def test_two_replicas_that_look_at_once_agree(
    trust: Trust, make_keeper: MakeKeeper, clock: Clock
) -> None:
    """The slower one has read before the faster one wrote."""
    fast = make_keeper()
    slow = make_keeper(lambda *given: Interrupted(*given, meanwhile=fast.look))
    assert slow.look() == ()
    made = trust.texts(CA)
    assert fast.bundle == slow.bundle == trust.published()
    assert made["ca.crt"].count("BEGIN") == 1, "one of the two authorities was never written"

    clock.now += AUTHORITY_LIFE / 2 + DAY
    slow = make_keeper(lambda *given: Interrupted(*given, meanwhile=fast.look))
    assert slow.look() == ()
    assert trust.texts(CA)["ca.crt"].count("BEGIN") == 2, "one successor"
    assert fast.bundle == slow.bundle == trust.published(), "and not one over the other"
    assert trust.is_whole()


def test_who_leads_no_more_writes_nothing(trust: Trust, make_keeper: MakeKeeper) -> None:
    def guard() -> None:
        raise LeadershipLost("another replica leads")

    with pytest.raises(LeadershipLost):
        make_keeper(guard=guard).look()
    assert trust.secret(CA) is None


# Rights ----------------------------------------------------------------------------


@pytest.fixture
def namespaced_account(
    cluster: ControlPlane, namespace: str, make_namespace: MakeNamespace
) -> Iterator[tuple[Path, str]]:
    """Kubeconfig with the rights of deploy/namespaced/rbac.yaml, and the namespace they name."""
    watched, unique = make_namespace(), f"zeus-operator-{uuid.uuid4().hex[:8]}"
    for manifest in namespaced([watched], namespace):
        if manifest["kind"] == "Namespace" or manifest["metadata"]["name"].startswith("zeusjobs"):
            continue
        if manifest["kind"].startswith("ValidatingAdmissionPolicy"):  # that of deploy/ stays
            continue
        if manifest["kind"] in ("ClusterRole", "ClusterRoleBinding"):  # those of deploy/ stay
            manifest["metadata"]["name"] = unique
            if "roleRef" in manifest:
                manifest["roleRef"]["name"] = unique
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))
    yield cluster.kubeconfig_for(SERVICE_ACCOUNT, namespace), watched
    cluster.kubectl("delete", "clusterrole,clusterrolebinding", unique)


def test_with_rights_in_some_namespaces_only_these_get_it(
    trust: Trust,
    make_keeper: MakeKeeper,
    make_namespace: MakeNamespace,
    namespaced_account: tuple[Path, str],
) -> None:
    account, watched = namespaced_account
    other = make_namespace()
    keeper = make_keeper(watched=(watched,), account=account)
    for name in (watched, other):
        trust.api.patch(f"/api/v1/namespaces/{name}", ENABLED)
    assert keeper.look() == ()
    assert trust.published(watched) == trust.published() != ""
    assert trust.published(other) == ""
    trust.api.patch(f"/api/v1/namespaces/{watched}", DISABLED)
    assert keeper.look() == ()
    assert trust.published(watched) == ""


def is_held_to_its_names(theirs: KubeClient, namespace: str) -> bool:
    """Whether the policy that was made with the rights is looked at by now."""
    try:
        theirs.create(
            f"/api/v1/namespaces/{namespace}/configmaps?dryRun=All", {"metadata": {"name": "x"}}
        )
    except Refused:
        return True
    return False


FORBIDDEN: tuple[tuple[str, str, Object], ...] = (
    ("GET", "/api/v1/namespaces/{own}/secrets/zeus-database", {}),
    ("GET", "/api/v1/namespaces/{own}/secrets", {}),
    ("GET", "/api/v1/secrets", {}),
    ("GET", "/api/v1/configmaps", {}),
    ("GET", "/api/v1/namespaces/default/secrets/zeus-agent-ca", {}),
    ("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "zeus-agent-ca"}}),
    ("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "x"}}),
    ("PATCH", "/api/v1/namespaces/default/configmaps/kube-root-ca.crt", {"data": {}}),
    ("DELETE", "/api/v1/namespaces/default/configmaps/kube-root-ca.crt", {}),
)


def test_the_rights_end_at_its_own_objects(service_account: Path, namespace: str) -> None:
    with contextlib.closing(KubeClient(load_configuration(str(service_account)))) as theirs:
        eventually(lambda: is_held_to_its_names(theirs, namespace), "the policy is in force")
        for method, where, body in FORBIDDEN:
            kind = MERGE_PATCH if method == "PATCH" else "application/json"
            with pytest.raises(Refused, match="forbidden"):
                theirs.request(
                    method, where.format(own=namespace), body=body or None, content_type=kind
                )
