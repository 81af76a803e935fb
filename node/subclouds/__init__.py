"""Subclouds at a node: what it joins and leaves by rule, and what it says about that."""
