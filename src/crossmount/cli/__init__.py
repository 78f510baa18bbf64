"""The `crossmount` command: options, output and progress around the library."""
