"""Owns the names of the gossip topics of the transparency log. Pure."""

from __future__ import annotations

CHECKPOINT_TOPIC = "checkpoints"
"""Checkpoint messages: by bootstraps the newest, by mirrors what they cosigned."""
ALARM_TOPIC = "log-alarms"
"""AlarmNotice messages."""
