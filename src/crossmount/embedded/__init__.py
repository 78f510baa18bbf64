"""The index server that is started on first use, one for each user and host."""
