"""Owns the errors of the model store.

ModelStoreError (a NodeError)
├── ModelNotFoundError      the store has no such model (look at `node models list`)
├── ModelExistsError        the name is taken by another file (choose another, or remove it)
├── ModelStateError         the model's state does not allow that
├── StoreFullError          the disk or the store's own limit has no room
├── StoreBusyError          another process works on the same thing: wait, or end it
├── SourceError             what was given to `add` is no source, or cannot be used
└── DownloadError           a download did not end well; what was received is kept

A file that is damaged, hostile or not the expected one is a `node.errors.ModelFileError`.
"""

from __future__ import annotations

from node.errors import NodeError


class ModelStoreError(NodeError):
    """Anything that the store reports by itself."""


class ModelNotFoundError(ModelStoreError):
    """The store has no model of this name."""


class ModelExistsError(ModelStoreError):
    """Another file has this name in the store."""


class ModelStateError(ModelStoreError):
    """The model's state does not allow that."""


class StoreFullError(ModelStoreError):
    """There is no room for the file."""


class StoreBusyError(ModelStoreError):
    """Another process holds what is needed."""


class SourceError(ModelStoreError):
    """What should be added cannot be."""


class DownloadError(ModelStoreError):
    """A download failed.

    Attributes:
        retry: whether trying again, later, may help without anybody changing anything.
        retry_after_s: the pause that the server asked for, 0 if it asked for none.
    """

    def __init__(self, message: str, *, retry: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry = retry
        self.retry_after_s = retry_after_s
