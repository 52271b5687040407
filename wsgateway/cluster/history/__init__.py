"""The history of channels: publications, and the recovery of a client that was disconnected.

Does not know connections or hooks.
"""
