"""The nodes of one gateway, and the brokers that carry messages between them.

Does not know connections or hooks.
"""
