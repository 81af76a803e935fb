"""Owns where a local network keeps what: one data folder, the same at every start.

network/            authority.key, mint.key, configuration.signed, network.id (founder's files)
accounts/           operator.account (nodes, gateway), demo.account (the consumer), recovery keys
api_key             the consumer's API key, 0600
bootstrap/ gateway/ node-1/ ...   each role's own folder: identity, state
logs/               one log for each process; *.stderr.log has what came before or beside it
run/                state.json (what runs now), ready files, locks
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from p2p.files import write_atomically
from resultity.errors import DataFolderError
from resultity.network_files import NetworkFiles

API_KEY_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class LocalFolders:
    """The paths of one local network."""

    root: Path

    @property
    def network(self) -> NetworkFiles:
        """The founder's files."""
        return NetworkFiles(self.root / "network")

    @property
    def logs(self) -> Path:
        """Where the processes log."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What belongs to running processes."""
        return self.root / "run"

    @property
    def state_path(self) -> Path:
        """Which processes run, and the port."""
        return self.run / "state.json"

    @property
    def operator_account(self) -> Path:
        """The account that the nodes and the gateway work for."""
        return self.root / "accounts" / "operator.account"

    @property
    def consumer_account(self) -> Path:
        """The account that pays."""
        return self.root / "accounts" / "demo.account"

    @property
    def opening_path(self) -> Path:
        """The signed documents that open the consumer's namespace, key and credit."""
        return self.root / "accounts" / "demo.opening.json"

    @property
    def api_key_path(self) -> Path:
        """The consumer's API key."""
        return self.root / "api_key"

    def role(self, name: str) -> Path:
        """The folder of one process: `bootstrap`, `gateway`, `node-1`, ..."""
        return self.root / name

    def ready_file(self, name: str) -> Path:
        """Where a process says that it serves."""
        return self.run / f"{name}.ready.json"

    def log_file(self, name: str) -> Path:
        """A process's log."""
        return self.logs / f"{name}.log"

    def stderr_file(self, name: str) -> Path:
        """What a process wrote to stderr."""
        return self.logs / f"{name}.stderr.log"

    def make(self) -> None:
        """Make the folders, 0700. Raises: DataFolderError."""
        try:
            for folder in (self.root, self.logs, self.run, self.root / "accounts"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DataFolderError(
                f"cannot make the data folder {self.root}: {error.strerror}"
            ) from error

    def read_api_key(self) -> str:
        """Read the API key. Raises: DataFolderError (missing, readable by others)."""
        try:
            if self.api_key_path.stat().st_mode & 0o077:
                raise DataFolderError(
                    f"{self.api_key_path} can be read by others: run chmod 600 {self.api_key_path}"
                )
            return self.api_key_path.read_text(encoding="ascii").strip()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise DataFolderError(f"cannot read {self.api_key_path}: {reason}") from error

    def replace_api_key(self, key_id: str, text: str) -> None:
        """Keep an API key's new secret, if it is the key that is kept here."""
        if self.api_key_path.exists() and self.read_api_key().startswith(f"rk_{key_id}_"):
            self.write_api_key(text)

    def write_api_key(self, text: str) -> None:
        """Keep the API key for the next start."""
        write_atomically(self.api_key_path, text.encode() + b"\n", API_KEY_FILE_MODE)
