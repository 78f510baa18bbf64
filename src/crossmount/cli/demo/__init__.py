"""The crossmount demo: its command, images, pushes and registry."""
