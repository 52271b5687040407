"""What clients and the gateway say to each other, one module for each protocol. No I/O."""
