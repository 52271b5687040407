"""The HTTP endpoints of one gateway."""
