from tests.support.postgres import database, postgres_server, store
from tests.support.stored_cli import zeusctl

__all__ = ["database", "postgres_server", "store", "zeusctl"]
