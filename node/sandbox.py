"""Owns the runtime's sandbox: a process that has the model, and no network.

Theory of operation. Model files come from strangers, and llama.cpp that reads them is C++. On Linux
the runtime is started by util-linux's `unshare` in user and network namespaces of its own: no
interface is up in there, not even the loopback, so nothing that runs in it can connect anywhere or
be connected to; what it says, it says over the pipe, as text that the agent checks. Whether the
system allows that is tried once, at the start, by doing it.

It keeps the network out and nothing else: the files of the user who runs the node stay readable.
"""

from __future__ import annotations

import shutil
import subprocess

from node.errors import SandboxError

SANDBOX_MODES = ("auto", "require", "off")
_TRY_TIMEOUT_S = 10.0
_TRUE = "/bin/true"


def sandbox_prefix(mode: str) -> tuple[str, ...]:
    """Give the words to put before a command so that it runs without network; none if it cannot.

    Blocks for some milliseconds.

    Args:
        mode: one of SANDBOX_MODES; `require` refuses to go on without.
    Raises: SandboxError.
    """
    if mode == "off":
        return ()
    unshare = shutil.which("unshare")
    if unshare is None:
        reason = "this system has no `unshare` (util-linux)"
    else:
        prefix = (unshare, "--map-current-user", "--net", "--")
        reason = _why_not(prefix)
        if not reason:
            return prefix
    if mode == "require":
        raise SandboxError(f"the runtime cannot be kept from the network: {reason}")
    return ()


def _why_not(prefix: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            [*prefix, shutil.which("true") or _TRUE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRY_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"unshare ended with {done.returncode}"


def forbid_core_dumps() -> None:
    """Have this process and its children write no memory to disk when they crash (POSIX)."""
    try:
        import resource
    except ImportError:  # another system: it has its own settings for that
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
