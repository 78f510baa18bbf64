"""The embedded index: a Valkey or Redis server that is started on first use, one for each user and host."""
