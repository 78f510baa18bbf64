"""HTTP requests to one registry: transport, retries, locations, TLS."""
