"""Fixtures that start the real docker-registry, in three flavours of authentication."""
