"""The Lua scripts of the index, one file each."""
