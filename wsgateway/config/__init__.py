"""Every setting, declared once, and read from the settings file, the environment, and the command line.

Does not know what a setting is used for.
"""
