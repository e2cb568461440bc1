"""Procedural reasoning worlds with verifiable answers."""
