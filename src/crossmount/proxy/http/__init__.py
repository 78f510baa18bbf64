"""The HTTP edge of the proxy: server, routes, headers, answers, the upstream."""
