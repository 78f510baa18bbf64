"""Helpers of the tests: real servers, images, clients."""
