"""The peer-to-peer core: identity, messages, signatures, wire format, network port, adapters."""
