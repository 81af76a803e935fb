"""Owns the systemd service of a node: installed, looked at, removed."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import resultity
from node.settings_file import SETTINGS_FILE
from p2p.files import write_atomically
from resultity.errors import DataFolderError, ProcessError, SettingsError
from resultity.folder_lock import is_locked
from resultity.node_joining import node_table
from resultity.node_unit import Unit, folder_of, is_ours, unit_text
from resultity.settings_sources import default_data_dir

SYSTEM_UNITS = Path("/etc/systemd/system")
LINGERING = Path("/var/lib/systemd/linger")
UNIT_MODE = 0o644
DRAIN_S_DEFAULT = 30.0
DRAIN_S_MAX = 3600
_SYSTEMCTL_TIMEOUT_S = 60.0
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")
_NAME_CHARACTERS_MAX = 100
"""A unit's name may have 255; two folder names may have twice that."""


@dataclass(frozen=True, slots=True)
class Service:
    """One node's unit: of the user who runs the command, or of the system."""

    folder: Path
    of_system: bool = False

    @property
    def name(self) -> str:
        """The unit's name: the default folder's is `resultity-node.service`, others differ by a
        digest of the folder: two of them may have the same last words."""
        if self.folder == (default_data_dir() / "node").absolute():
            return "resultity-node.service"
        words = [part for part in self.folder.parts[-2:] if part != "/"]
        shown = _UNFIT.sub("-", "-".join(words)).strip("-.")[-_NAME_CHARACTERS_MAX:]
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:8]
        return f"resultity-{shown}-{digest}.service"

    @property
    def path(self) -> Path:
        """Where the unit file is."""
        return unit_folder(self.of_system) / self.name

    def systemctl(self, *words: str) -> str:
        """Ask systemd. Raises: ProcessError: it does not do it."""
        done = self._systemctl(*words)
        if done.returncode:
            raise ProcessError(f"systemctl {words[0]}: {_last_line(done) or done.returncode}")
        return done.stdout

    def require_systemd(self) -> None:
        """See that systemd is there and answers. Raises: ProcessError that says what to do."""
        why = "there is no systemctl"
        if shutil.which("systemctl") is not None:
            done = self._systemctl("show", "--property=Version")
            if done.returncode == 0:
                return
            why = _last_line(done)
        raise ProcessError(
            f"systemd does not answer here ({why}): have your own service manager run "
            f"`resultity node run --data-dir {self.folder}`"
        )

    def properties(self) -> dict[str, str]:
        """What systemd says of the unit. Raises: ProcessError."""
        wanted = "LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts"
        text = self.systemctl("show", self.name, f"--property={wanted}")
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def _systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        scope = [] if self.of_system else ["--user"]
        try:
            return subprocess.run(
                ["systemctl", *scope, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SYSTEMCTL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProcessError(f"systemctl {words[0]}: {error}") from error


def unit_folder(of_system: bool) -> Path:
    """Where unit files of the system, or of this user, are kept."""
    if of_system:
        return SYSTEM_UNITS
    configuration = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(configuration) / "systemd" / "user"


def make_unit(folder: Path, run_as: str | None) -> Unit:
    """Say how a node's folder is run. Raises: DataFolderError: it has not joined a network."""
    table = node_table(folder)
    if "network" not in table:
        raise DataFolderError(
            f"{folder} has no {SETTINGS_FILE}: join a network first (`resultity node join`)"
        )
    source = Path(resultity.__file__).resolve().parent.parent
    installed = source.name in ("site-packages", "dist-packages")
    command = (sys.executable, "-P", "-m", "resultity", "node", "run", "--data-dir", str(folder))
    drain_s = table.get("drain_s", DRAIN_S_DEFAULT)
    if not isinstance(drain_s, int | float) or not 0 <= drain_s <= DRAIN_S_MAX:
        raise SettingsError(f"{folder / SETTINGS_FILE}: drain_s must be from 0 to {DRAIN_S_MAX}")
    return Unit(command, folder, float(drain_s), "" if installed else str(source), run_as)


def install(service: Service, run_as: str | None) -> str:
    """Write the unit, enable and start it; gives its text. Installing again replaces it.

    Raises: SettingsError (a unit of somebody else is there), DataFolderError, ProcessError.
    """
    if service.of_system and os.geteuid() != 0:
        raise SettingsError("a unit of the system is installed by root: use sudo, or no --system")
    if service.of_system and (run_as is None or _is_root(run_as)):
        raise SettingsError("as which user should the node run? give --run-as (not root)")
    text = unit_text(make_unit(service.folder, run_as if service.of_system else None))
    there = _read(service.path)
    if there is not None and not is_ours(there):
        raise SettingsError(f"{service.path} is not ours: it was left as it is")
    service.require_systemd()
    if there is None and is_locked(service.folder):
        raise DataFolderError(
            f"a node runs in {service.folder} already: end it first (`resultity node drain`)"
        )
    service.path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(service.path, text.encode(), UNIT_MODE)
    service.systemctl("daemon-reload")
    service.systemctl("enable", service.name)
    verb = "start" if there in (None, text) else "restart"
    service.systemctl(verb, "--no-block", service.name)
    return text


def remove(service: Service) -> bool:
    """Stop the unit (running jobs finish) and remove it; tells whether there was one.

    Raises: SettingsError (it is somebody else's), ProcessError, OSError.
    """
    text = _read(service.path)
    if text is None:
        return False
    if not is_ours(text):
        raise SettingsError(f"{service.path} is not ours: it was left as it is")
    # Not `disable --now`: stopping waits for the node to drain, at most TimeoutStopSec.
    service.systemctl("disable", service.name)
    service.systemctl("stop", "--no-block", service.name)
    service.path.unlink()
    service.systemctl("daemon-reload")
    return True


def services_of(folder: Path) -> list[Service]:
    """Give the services whose units are ours and run this folder."""
    both = [Service(folder, of_system) for of_system in (False, True)]
    return [one for one in both if folder_of(_read(one.path) or "") == folder]


def lingers(user: str) -> bool:
    """Tell whether a user's services go on after the user has logged out."""
    return (LINGERING / user).exists()


def _is_root(user: str) -> bool:
    """Tell whether systemd would run a unit of that user as root (it does for an empty name)."""
    if not user or user.isdecimal():
        return not user or int(user) == 0
    try:
        return pwd.getpwnam(user).pw_uid == 0
    except KeyError:
        return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else ""
