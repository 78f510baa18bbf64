"""`python -m crossmount` is `crossmount`."""

from crossmount.cli.entry import main

if __name__ == "__main__":
    main()
