"""Owns the local network: what `up` starts and `down` ends on one machine."""
