"""The proxy: any client pushes through it unchanged, and it mounts the blobs that the client would upload.

Its parts import one way: `settings`, `policy`, `reload` ← `http` ← `auth` ← `telemetry`, `ledger` ← `recorder` ←
`uploads` ← `files` ← `own_endpoints` ← `app` ← `gateway`, `assembly` ← `server`. A request starts at
`Gateway.__call__` if there are several upstreams, else at `App.__call__`. `event_receiver` is used by
`crossmount events` too.
"""
