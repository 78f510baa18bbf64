"""Where people keep registry credentials: files, the environment, helpers."""
