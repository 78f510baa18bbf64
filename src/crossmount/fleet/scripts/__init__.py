"""The Lua scripts of the leases, one file each."""
