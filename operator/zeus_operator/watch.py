"""The kopf side: watches whose handlers do nothing but update the `World` and a queue.

No handler of kopf's keeps state: it would copy every spec into an annotation, add finalizers, or
index in quadratic time.  kopf runs in a thread and loop of its own, so that its failures end in
one place and its signal handlers do not get in the way of ours.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import kopf
from kubernetes.client import Configuration

from zeus_operator import names
from zeus_operator.world import ALWAYS_WATCHED, CHILD_RESOURCES, Key, Resource, World

SERVER_TIMEOUT_SECONDS = 600
CLIENT_TIMEOUT_SECONDS = 660
CONNECT_TIMEOUT_SECONDS = 10
REQUEST_TIMEOUT_SECONDS = 30
LIST_CHUNK = 500
_STOP_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Watches:
    """Runs the watches in a thread until stopped.

    Args:
        enqueue: takes the key of each ZeusJob of which something has changed, and whether that
            was only the first list.
        configuration: makes how to reach the API server, anew for each login of kopf's.
        namespaces: what to watch; empty: the whole cluster.
        resources: of what kinds; each has to be known to the API server.
    """

    def __init__(
        self,
        world: World,
        enqueue: Callable[[Key, bool], object],
        configuration: Callable[[], Configuration],
        namespaces: Sequence[str] = (),
        resources: Sequence[Resource] = ALWAYS_WATCHED,
    ) -> None:
        self._world = world
        self._enqueue = enqueue
        self._configuration = configuration
        self._namespaces = namespaces
        self._resources = tuple(resources)
        self._stop = threading.Event()  # kopf waits for it
        self._is_asked = False
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watches and wait for that, but not for ever."""
        self._is_asked = True
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether kopf still runs; it gives up by itself on errors that it does not expect."""
        return self._thread.is_alive() and not self._has_ended

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except BaseException as error:
            self.failure = error
            if not self._is_asked:
                _log.exception("the watches have failed")

    async def _watch(self) -> None:
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=_settings(self._resources),
                standalone=True,  # our Lease decides who leads, not kopf's peering
                # Its own asks for a user's name, which a random uid (OpenShift) does not have.
                identity=cast(Any, "zeus-operator"),  # a NewType that kopf keeps to itself
                clusterwide=not self._namespaces,
                namespaces=list(self._namespaces),
                stop_flag=self._stop,
            )
        finally:
            self._has_ended = True
            # Else the loop waits for ever for kopf's thread that waits for the flag.
            self._stop.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for resource in self._resources:
            is_ours = None if resource is Resource.ZEUSJOBS else {names.LABEL_JOB_UID: kopf.PRESENT}
            kopf.on.event(*selector(resource), labels=is_ours, registry=registry)(
                self._handler(resource)
            )
        return registry

    def _handler(self, resource: Resource) -> Callable[..., Any]:
        async def on_event(event: kopf.RawEvent, **_: Any) -> None:
            key = self._world.apply(resource, event["type"], event["object"])
            if key is not None:
                self._enqueue(key, event["type"] is None)

        on_event.__name__ = f"on_{resource.value}"
        return on_event

    def _login(self, **_: Any) -> kopf.ConnectionInfo:
        found = self._configuration()
        token = found.get_api_key_with_prefix("BearerToken", "authorization")
        scheme, _separator, value = (token or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            scheme=scheme or None,
            token=value or None,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
        )


def selector(resource: Resource) -> tuple[str, str, str]:
    """Return group, version and plural of what is watched."""
    if resource is Resource.ZEUSJOBS:
        return names.GROUP, names.VERSION, names.PLURAL
    if resource is Resource.PODS:
        return "", "v1", "pods"
    kind = CHILD_RESOURCES[resource]
    group, _, version = kind.api_version.partition("/")
    return group, version, kind.plural


class _NoDiffs(kopf.DiffBaseStorage):
    """No handler of ours asks what has changed: kopf need not copy each object to find it out."""

    def build(
        self,
        *,
        body: kopf.Body,  # noqa: ARG002 - kopf gives them by name
        extra_fields: object = None,  # noqa: ARG002
    ) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> None:
        pass

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


def _settings(resources: Sequence[Resource] = ALWAYS_WATCHED) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.watching.server_timeout = SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = CLIENT_TIMEOUT_SECONDS
    settings.watching.connect_timeout = CONNECT_TIMEOUT_SECONDS
    settings.watching.chunk_size = LIST_CHUNK
    # Filtered by the server: a cluster has many Jobs and pods that are none of ours.
    for resource in resources:
        if resource is not Resource.ZEUSJOBS:
            settings.watching.label_selectors[selector(resource)] = names.LABEL_JOB_UID
    settings.networking.request_timeout = REQUEST_TIMEOUT_SECONDS
    settings.posting.enabled = False  # we post Events of our own, each once
    settings.scanning.disabled = True  # saves a watch of all CRDs and namespaces, and the right to
    settings.queueing.idle_timeout = 1.0
    return settings
