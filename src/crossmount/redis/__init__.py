"""The client of Redis and Valkey: addresses, connections, Cluster routing, Sentinel, scripts, key scan."""
