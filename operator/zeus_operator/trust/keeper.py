"""Keeps the authorities, the agents' certificate and what is published of them as they have to be.

Each look reads what is there and puts right what differs, so it does not matter who has changed it,
which write was the last before a crash, or how long nobody looked.  Secrets are written with the
version that was read: of two writers one fails, reads again, and finds the other's work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from zeus_operator import names
from zeus_operator.kube import Conflict, KubeClient, KubeError, NotFound, path_of
from zeus_operator.trust import objects, plan
from zeus_operator.trust.certificates import (
    Authority,
    Leaf,
    canonical_name,
    issue,
    issuer_of,
    make_authority,
    read_authorities,
    read_leaf,
)

Object = dict[str, Any]

PUBLISH_SECONDS = 20.0
"""Longest time of publishing in one look, but for one request."""
_ROUNDS = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Where:
    """Where things are.

    Args:
        namespace: of the operator and its agents.
        watched: namespaces that are served; empty: the whole cluster.
    """

    namespace: str
    watched: tuple[str, ...] = ()


class TrustKeeper:
    """Call `look` now and then, from one thread at a time.

    Args:
        host_names: what the agents' certificate is for; the first is its subject.
        guard: raises if this process may act no more; called before each write.
        clock: gives the time, aware.
        monotonic: seconds.
    """

    def __init__(
        self,
        client: KubeClient,
        where: Where,
        host_names: Sequence[str],
        guard: Callable[[], None],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._where = where
        # In one form: else the certificate would always seem to be for other names.
        self._host_names = tuple(dict.fromkeys(map(canonical_name, host_names)))
        self._guard = guard
        self._clock = clock
        self._monotonic = monotonic
        self._bundle = ""
        self._published_last = ""  # a namespace

    @property
    def bundle(self) -> str:
        """Certificates to trust, as text; "": none are known yet.  From any thread."""
        return self._bundle

    def look(self) -> tuple[str, ...]:
        """Put right what differs, and return what could not be, in plain words.

        Raises:
            KubeError: the Secrets can't be read or written.
        """
        return self._rounds(publish=True)

    def prepare(self) -> tuple[str, ...]:
        """Put right the Secrets alone: what a run that starts has to know.

        That takes a few requests, and does not depend on how many namespaces there are.

        Raises:
            KubeError: the Secrets can't be read or written.
        """
        return self._rounds(publish=False)

    def _rounds(self, *, publish: bool) -> tuple[str, ...]:
        for _ in range(_ROUNDS):
            try:
                return self._round(publish=publish)
            except Conflict:  # another replica was faster: read what it wrote
                continue
        return (f"Secrets {self._where.namespace}/{objects.AUTHORITY_SECRET} change all the time",)

    def _round(self, *, publish: bool) -> tuple[str, ...]:
        authorities, problems = self._authorities()
        facts = _facts(authorities)
        self._bundle = plan.bundle(facts, self._clock())
        if publish:
            # Before a certificate of a new authority is served, who calls agents should know it.
            problems += self._publish(self._bundle)
        self._certificate(authorities, facts)
        return problems

    # The Secrets -----------------------------------------------------------------

    def _authorities(self) -> tuple[tuple[Authority, ...], tuple[str, ...]]:
        """Return the authorities, after making one where that is due."""
        path, found = self._find_secret(self._where.namespace, objects.AUTHORITY_SECRET)
        texts = objects.texts_of(found, objects.CA_CERTIFICATES, objects.CA_KEYS)
        authorities, unreadable = read_authorities(*texts)
        now = self._clock()
        due = plan.plan_authorities(_facts(authorities), now)
        if due is None:
            return authorities, tuple(f"Secret {path}: {each}" for each in unreadable)
        for each in unreadable:
            _log.warning("Secret %s: %s; what can't be used is replaced", path, each)
        kept = [each for each in authorities if each.fingerprint in due.keep]
        kept.append(make_authority(now, plan.AUTHORITY_LIFE))
        self._write_secret(
            found, self._where.namespace, objects.AUTHORITY_SECRET, "Opaque",
            objects.authority_secret(kept),
        )  # fmt: skip
        _log.info("a new authority for the agents: %s", due.reason)
        return tuple(kept), ()

    def _certificate(
        self, authorities: Sequence[Authority], facts: Sequence[plan.AuthorityFacts]
    ) -> None:
        """Issue the agents' certificate where that is due."""
        namespace = self._where.namespace
        _, found = self._find_secret(namespace, objects.CERTIFICATE_SECRET)
        texts = objects.texts_of(found, objects.TLS_CERTIFICATE, objects.TLS_KEY)
        leaf = read_leaf(*texts)
        now = self._clock()
        wanted = frozenset(self._host_names)
        due = plan.plan_certificate(_leaf_facts(leaf, authorities), facts, wanted, now)
        if due is None:
            return
        signer = next(each for each in authorities if each.fingerprint == due.by)
        made = issue(signer, self._host_names, now, plan.CERTIFICATE_LIFE)
        self._write_secret(
            found, namespace, objects.CERTIFICATE_SECRET, "kubernetes.io/tls",
            objects.certificate_secret(made),
        )  # fmt: skip
        _log.info("a new certificate for the agents: %s", due.reason)

    def _find_secret(self, namespace: str, name: str) -> tuple[str, Object | None]:
        try:
            found = self._client.get(path_of("v1", "secrets", namespace, name))
        except NotFound:
            found = None
        return f"{namespace}/{name}", found

    def _write_secret(
        self,
        found: Object | None,
        namespace: str,
        name: str,
        kind: str,
        texts: Mapping[str, str],
    ) -> None:
        """Write a Secret that is as it was read.

        Raises:
            Conflict: it is not any more.
        """
        self._guard()
        body = objects.secret(found, namespace, name, kind, texts)
        if found is None:
            self._client.create(path_of("v1", "secrets", namespace), body)
            return
        try:
            self._client.replace(path_of("v1", "secrets", namespace, name), body)
        except NotFound as error:
            raise Conflict(error.status, error.reason, error.message) from error

    # The ConfigMaps --------------------------------------------------------------

    def _publish(self, text: str) -> tuple[str, ...]:
        """Publish and withdraw; a namespace where that fails does not keep others from it.

        What takes too long is left to the next look, which begins where this one has ended: the
        certificate must not wait for a thousand namespaces.
        """
        problems: list[str] = []
        deadline = self._monotonic() + PUBLISH_SECONDS
        try:
            access = self._namespaces_with_access()
            found = self._config_maps()
        except KubeError as error:
            return (f"the namespaces with access to the agents can't be read: {error.message}",)
        published = {
            name: str((each.get("data") or {}).get(objects.CA_CERTIFICATES))
            for name, each in found.items()
        }
        ours = {name for name, each in found.items() if objects.is_ours(each)}
        due = plan.plan_access(text, published, ours, access)
        todo = plan.in_turn(sorted({*due.publish, *due.withdraw}), self._published_last)
        for number, namespace in enumerate(todo):
            if self._monotonic() >= deadline:
                problems.append(
                    f"ConfigMap {objects.CONFIG_MAP}: {len(todo) - number} namespaces are left "
                    "for the next look"
                )
                break
            self._guard()
            self._published_last = namespace
            path = path_of("v1", "configmaps", namespace, objects.CONFIG_MAP)
            is_to_have = namespace in access
            try:
                if is_to_have:
                    body = objects.config_map(namespace, text)
                    self._client.apply(path, body, names.FIELD_MANAGER)
                else:
                    self._client.delete(path, uid=str(found[namespace]["metadata"]["uid"]))
            except KubeError as error:
                what = "made" if is_to_have else "deleted"
                name = f"{namespace}/{objects.CONFIG_MAP}"
                problems.append(f"ConfigMap {name} can't be {what}: {error.message}")
        return tuple(problems)

    def _namespaces_with_access(self) -> set[str]:
        if self._where.watched:
            found = [self._find(path_of("v1", "namespaces", name=n)) for n in self._where.watched]
            labelled = objects.has_access(each for each in found if each is not None)
        else:
            selector = f"{names.LABEL_AGENT_ACCESS}={names.AGENT_ACCESS_ENABLED}"
            query = {"labelSelector": selector}
            path = path_of("v1", "namespaces")
            labelled = objects.has_access(self._client.items(path, query, metadata_only=True))
        return {self._where.namespace, *labelled}

    def _config_maps(self) -> dict[str, Object]:
        """Return the ConfigMaps of our name, by namespace."""
        if not self._where.watched:
            # By name also in the list, because the right to it is.
            query = {"fieldSelector": f"metadata.name={objects.CONFIG_MAP}"}
            items = self._client.items(path_of("v1", "configmaps"), query)
            return {str(each["metadata"]["namespace"]): each for each in items}
        found = {}
        for namespace in dict.fromkeys((self._where.namespace, *self._where.watched)):
            each = self._find(path_of("v1", "configmaps", namespace, objects.CONFIG_MAP))
            if each is not None:
                found[namespace] = each
        return found

    def _find(self, path: str) -> Object | None:
        try:
            return self._client.get(path)
        except NotFound:
            return None


def _facts(authorities: Sequence[Authority]) -> tuple[plan.AuthorityFacts, ...]:
    return tuple(
        plan.AuthorityFacts(
            fingerprint=each.fingerprint,
            not_before=each.certificate.not_valid_before_utc,
            not_after=each.certificate.not_valid_after_utc,
            can_sign=each.key is not None,
            pem=each.pem,
        )
        for each in authorities
    )


def _leaf_facts(leaf: Leaf | None, authorities: Sequence[Authority]) -> plan.LeafFacts | None:
    if leaf is None:
        return None
    issuer = issuer_of(leaf, authorities)
    return plan.LeafFacts(
        issuer=issuer.fingerprint if issuer else "",
        not_before=leaf.certificate.not_valid_before_utc,
        not_after=leaf.certificate.not_valid_after_utc,
        names=leaf.names,
    )
