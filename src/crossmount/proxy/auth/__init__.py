"""Callers of the proxy and their rights: client mode, service mode, tokens."""
