"""Authorization at one registry: challenges, realms, scopes, tokens."""
