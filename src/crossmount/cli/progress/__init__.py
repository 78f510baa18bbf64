"""Progress of long-running commands, drawn on a terminal or printed as lines."""
