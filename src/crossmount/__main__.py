"""Runs the `crossmount` command as `python -m crossmount`."""

from crossmount.cli.entry import main

if __name__ == "__main__":
    main()
