"""Owns short holds for tests over real processes: it is on the path of those processes only.

A hold outlives its job's deadline by a minute at least, which no test waits for. Processes that
find this module in their path found networks with jobs of 5 s, and ask for holds of 6 s.
"""

from __future__ import annotations

import gateway.limits
from p2p.network_configuration import Limits, NetworkConfiguration

gateway.limits.HOLD_MARGIN_S = 1.0
NetworkConfiguration.model_fields["limits"].default = Limits(job_deadline_s_max=5)
NetworkConfiguration.model_rebuild(force=True)
