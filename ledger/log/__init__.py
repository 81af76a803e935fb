"""The transparency log: Merkle tree, leaves, checkpoints, sequencer and audit."""
