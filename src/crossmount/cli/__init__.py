"""The `crossmount` command: thin layers of options, words and progress around the library."""
