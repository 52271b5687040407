"""The history of channels: what was published, and how a client that was away catches up.

Does not know connections or hooks.
"""
