"""A server that the operator runs anyway, behind the node's `Runtime` port."""
