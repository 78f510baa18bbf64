"""What the tests share: real servers, images, small helpers."""
