"""The gateway as a peer: who may ask, which node answers, what is delivered, and what is paid."""
