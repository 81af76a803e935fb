"""The subclouds' directory at a bootstrap."""
