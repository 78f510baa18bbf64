"""What trouble on the index's servers, or at the registry, costs a crowd of pushers.

    python tests/bench/trouble.py [--times 3] [--only WORDS]

Each trouble strikes while sixteen pushers push three images each, one after the other, into a real docker-registry;
beside each there is a run without any. Prints a table: pushes that failed, the time that was added to the slowest
push (the median of all runs, less the median of those without trouble), uploads beyond one of each blob, and what
users were told. A push is one of forty-eight.
"""
