"""Fixtures that start real Valkey and Redis servers."""
