"""Owns where `ledger prove` and `ledger verify` get what they compare a log with."""

from __future__ import annotations

from pathlib import Path

from p2p.codec import decode_message
from p2p.errors import P2PError
from p2p.log_messages import LogRange
from p2p.mirror_messages import Growth
from p2p.network_configuration import NetworkConfiguration, open_configuration
from p2p.signing import Signed
from p2p.types import NetworkId
from resultity.courier import Courier
from resultity.errors import GatewayCallError, SettingsError
from resultity.seen_checkpoints import AskGrowth
from resultity.settings_sources import default_data_dir
from resultity.targets import find_gateway, local_folders


def seen_folder(data_dir: Path | None) -> Path:
    """Give the data folder in which the last seen checkpoint is kept."""
    return data_dir or default_data_dir()


def known_configuration(
    path: Path | None, network: NetworkId, data_dir: Path | None
) -> NetworkConfiguration | None:
    """Read the configuration that names log keys and witnesses; None if there is none here.

    Raises: SettingsError if the file is not the network's.
    """
    own = local_folders(data_dir).network
    if path is None and own.exists and own.network() == network:
        path = own.configuration_path
    if path is None:
        return None
    try:
        return open_configuration(decode_message(path.read_bytes(), Signed), network)
    except (P2PError, OSError) as error:
        raise SettingsError(f"{path}: {error}") from error


def without_quorum(configuration: NetworkConfiguration | None) -> NetworkConfiguration | None:
    """Give the same configuration without what only a finished proof must have."""
    if configuration is None:
        return None
    return configuration.model_copy(update={"witness_quorum": 0})


def growth_from(gateway: str | None, data_dir: Path | None) -> AskGrowth:
    """Ask a gateway how the log grew. Raises (when asked): GatewayCallError, NotRunningError."""

    def ask(old_size: int, new_size: int) -> Growth:
        courier = Courier(find_gateway(gateway, data_dir))
        answer = courier.carry("consistency", LogRange(old_size, new_size))
        hashes = tuple(answer[at : at + 32] for at in range(0, len(answer), 32))
        if len(answer) % 32 or len(hashes) > 64:
            raise GatewayCallError("the gateway's proof of the log's growth cannot be read")
        return Growth(old_size, new_size, hashes)

    return ask


def no_growth(old_size: int, new_size: int) -> Growth | None:
    """Ask nobody: only sizes that are the same can be compared."""
    return None
