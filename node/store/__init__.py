"""Owns the model store: the model files of a node, each verified, and what is known of them."""
