"""`ledger backup` beside a ledger at work, `ledger restore` after its folder is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import namespace_view
from resultity.folder_lock import locked_folder
from tests.fakes.ledger_world import NETWORK, World
from tests.fakes.local_network import run_resultity

pytestmark = pytest.mark.e2e


def open_ledger(folder: Path) -> tuple[Store, World]:
    folder.mkdir(exist_ok=True)
    engine = open_engine(f"sqlite:///{folder / 'ledger.sqlite'}", writer=True)
    prepare(engine, NETWORK)
    return Store(engine), World()


def test_backup_and_restore_by_one_command_each(tmp_path: Path) -> None:
    folder, file = tmp_path / "bootstrap", tmp_path / "ledger.backup"
    store, world = open_ledger(folder)
    tenant = world.tenant()
    store.apply([*world.setup(tenant, 1_000), world.hold(tenant, 300)], world.now_ms)
    with locked_folder(folder):  # the bootstrap runs
        done = run_resultity("ledger", "backup", str(file), "--data-dir", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{file} has 2 transfers of {NETWORK}\n"
    again = run_resultity("ledger", "restore", str(file), "--data-dir", str(folder))
    assert again.returncode == 1
    assert "replaces nothing" in again.stderr
    store.close()
    for path in folder.glob("ledger.sqlite*"):
        path.unlink()
    with locked_folder(folder):
        busy = run_resultity("ledger", "restore", str(file), "--data-dir", str(folder))
    assert busy.returncode == 1
    assert "in use by process" in busy.stderr
    done = run_resultity("ledger", "restore", str(file), "--data-dir", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"restored 2 transfers of {NETWORK}\n"
    engine = open_engine(f"sqlite:///{folder / 'ledger.sqlite'}", writer=False)
    with engine.begin() as connection:
        check_integrity(connection)
        view = namespace_view(connection, tenant.path)
    engine.dispose()
    assert view is not None
    assert (view.available, view.held) == (700, 300)


def test_the_url_of_the_environment_is_used(tmp_path: Path) -> None:
    store, world = open_ledger(tmp_path / "elsewhere")
    store.apply(world.setup(world.tenant(), 1_000), world.now_ms)
    store.close()
    url = f"sqlite:///{tmp_path / 'elsewhere' / 'ledger.sqlite'}"
    file = tmp_path / "ledger.backup"
    done = run_resultity("ledger", "backup", str(file), RESULTITY_BOOTSTRAP_DATABASE_URL=url)
    assert done.stdout == f"{file} has 1 transfers of {NETWORK}\n"


def test_what_cannot_be_backed_up_is_said_in_one_line(tmp_path: Path) -> None:
    file = str(tmp_path / "ledger.backup")
    for words, said in (
        (("--data-dir", str(tmp_path / "none")), "is no folder"),
        (("--data-dir", str(tmp_path)), "there is no ledger"),
        (("--data-dir", str(tmp_path), "--database-url", "x"), "not both"),
        (("--database-url", "mysql://x"), "starts with sqlite:///"),
    ):
        done = run_resultity("ledger", "backup", file, *words)
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
