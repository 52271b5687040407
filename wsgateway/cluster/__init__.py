"""The nodes of one gateway, the brokers that carry messages between them, and the history of channels.

Does not know connections or hooks.
"""
