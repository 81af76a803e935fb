"""Runs every `resultity` of a shell script as a process of its own, forked from one that imported
everything: most of what a short command costs is its imports.

    python forking_commands.py serve SOCKET      takes one command after the other, until killed
    python forking_commands.py run SOCKET ...    has it run `resultity ...` here: with this folder,
                                                 environment, standard streams; gives its exit code
"""

import importlib
import json
import os
import pkgutil
import socket
import sys
import traceback

REQUEST_BYTES_MAX = 1 << 17


def run(path: str, arguments: list[str]) -> int:
    """Have a command run, and wait for its end."""
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        return int(connection.recv(16) or b"70")


def serve(path: str) -> None:
    """Import what commands import, then fork one process for each that comes."""
    import openai  # noqa: F401

    import resultity.commands

    for module in pkgutil.iter_modules(resultity.commands.__path__):
        importlib.import_module(f"resultity.commands.{module.name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        os.rename(f"{path}.new", path)  # who finds it can connect
        while True:
            connection, _ = listener.accept()
            with connection:
                content, streams, _, _ = socket.recv_fds(connection, REQUEST_BYTES_MAX, 3)
                child = os.fork()
                if not child:
                    os._exit(_child(json.loads(content), streams))
                for stream in streams:
                    os.close(stream)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                connection.send(str(code).encode())


def _child(request: dict, streams: list[int]) -> int:
    from resultity.__main__ import main

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.closerange(3, 64)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["resultity", *request["arguments"]]
    try:
        main(prog_name="resultity")
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(run(sys.argv[2], sys.argv[3:]))
    serve(sys.argv[2])
