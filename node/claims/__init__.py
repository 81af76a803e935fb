"""A node's care for its own pay: what is owed to it, and claims where a gateway does not settle."""
