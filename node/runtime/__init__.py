"""The runtime process.

It holds the model and decodes. No trio, no libp2p and no network in here.
"""
