"""Opens what a run on this machine needs: database, GPUs, agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from zeus_operator.executors.checkpoints import Checkpoint, CheckpointHook, no_checkpoint
from zeus_operator.local.agent import AgentNotStarted, LocalAgent
from zeus_operator.local.gpu import GpuChoice, Gpus, choose_gpus
from zeus_operator.local.home import Home, make_private
from zeus_operator.store.embedded import EmbeddedPostgres
from zeus_operator.store.store import Store

DATABASE_VARIABLE = "DATABASE_URL"


@dataclass(frozen=True)
class Services:
    """What is open.  `agent_address` is None where limits can't be set."""

    store: Store
    gpus: Gpus
    agent_address: str | None


@contextmanager
def open_store(home: Home, environ: Mapping[str, str] = os.environ) -> Iterator[Store]:
    """Open the database that DATABASE_URL names, else the embedded one in `home`.

    Raises:
        HomeError: the folder can't be used.
        EmbeddedPostgresError: no server can be run here.
        StoreError: the database does not answer or holds an unknown schema.
    """
    home.create()
    url = environ.get(DATABASE_VARIABLE)
    if url:
        store = Store.connect(url)
        try:
            yield store
        finally:
            store.close()
        return
    with EmbeddedPostgres(home.postgres) as server:
        # A server that was killed is started again by whoever misses it first.
        store = Store.connect(server.start(), recover=server.start)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def open_services(
    home: Home,
    choice: GpuChoice,
    notify: Callable[[str], None],
    *,
    environ: Mapping[str, str] = os.environ,
    checkpoint: CheckpointHook = no_checkpoint,
) -> Iterator[Services]:
    """Open everything; says with `notify` what a user should know.

    Raises:
        GpuError: `choice` asks for what is not here.
        HomeError, EmbeddedPostgresError, StoreError: see `open_store`.
    """
    with open_store(home, environ) as store:
        checkpoint(Checkpoint.SERVICES_DATABASE_READY)
        gpus = choose_gpus(home, choice, environ)
        if gpus.notice:
            notify(gpus.notice)
        with _agent(gpus, notify) as address:
            checkpoint(Checkpoint.SERVICES_AGENT_READY)
            yield Services(store, gpus, address)


@contextmanager
def _agent(gpus: Gpus, notify: Callable[[str], None]) -> Iterator[str | None]:
    """Keep an agent for `gpus`; without one, training goes on at the limits found."""
    if not gpus.uuids:
        yield None
        return
    make_private(gpus.folder)
    agent = LocalAgent(gpus.folder, gpus.uuids, gpus.environment, notify=notify)
    try:
        node = agent.start()
        if node.simulated and not gpus.simulated:
            notify("the driver of this machine is a simulated one (figures are simulated)")
        unsettable = [gpu for gpu in node.gpus if not gpu.can_set_power_limit]
        for gpu in unsettable:
            if gpu.uuid in gpus.uuids:
                notify(f"the power limit of GPU {gpu.index} can't be set: {gpu.reason}")
    except (AgentNotStarted, OSError) as error:
        notify(f"power limits stay as they are: {error}")
    try:
        yield agent.address
    finally:
        agent.close()
