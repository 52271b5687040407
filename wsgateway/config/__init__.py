"""Every setting, declared once; read from the file, the environment, and flags.

Does not know what a setting is used for.
"""
