"""Any client, unchanged: a proxy before one registry that mounts what a client would upload."""
