"""Talk to Redis and Valkey: addresses, connections, Cluster routing, Sentinel, scripts. It knows no layers."""
