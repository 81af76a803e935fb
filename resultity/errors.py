"""Owns the error tree of the command line.

ResultityError
├── SettingsError         an option, variable or file of settings is wrong (the operator must act)
├── DataFolderError       a data folder is in use, damaged or readable by others (same)
├── ProcessError          a process of a local network did not start or has died (read its log)
├── NotRunningError       there is no local network in this data folder (run `resultity up`)
├── GatewayCallError      a gateway cannot be reached or refused (retry, or act on the reason)
└── ReceiptError          a receipt does not say what its holder was told (keep it, complain)

Every message is one line that says what was wrong and what to do.
"""

from __future__ import annotations


class ResultityError(Exception):
    """Anything that the command line reports by itself."""


class SettingsError(ResultityError):
    """An option, an environment variable or a settings file is wrong."""


class DataFolderError(ResultityError):
    """A data folder cannot be used as it is."""


class ProcessError(ResultityError):
    """A process of a local network did not start or has died."""


class NotRunningError(ResultityError):
    """There is no local network in this data folder."""


class GatewayCallError(ResultityError):
    """A gateway cannot be reached or refused.

    Attributes:
        status: the HTTP status, or 0 if there was no answer.
        code: the machine-readable reason that the gateway gave, or "".
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ReceiptError(ResultityError):
    """A receipt, or what it is checked against, does not verify."""
