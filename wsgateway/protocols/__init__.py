"""The messages that clients and the gateway exchange, one module for each protocol. Does no I/O."""
