"""The proxy: any client pushes through it unchanged, and it mounts the blobs that the client would upload.

Its parts import one way: `settings` ← `http` ← `auth` ← `telemetry`, `recorder` ← `uploads` ← `own_endpoints` ←
`app` ← `server`. A request starts at `App.__call__`. `event_receiver` is used by `crossmount events` too.
"""
