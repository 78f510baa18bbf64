"""Uploads through the proxy: sessions, the spool, the relay, turns."""
