"""Subclouds: an owner's signed policy, and the pure rules that say what follows from it."""
