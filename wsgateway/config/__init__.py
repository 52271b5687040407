"""Every setting, declared once; read from the file, the environment, and flags.

Does not know what a setting is used for.
"""

from wsgateway.config.settings import AdminSettings, Settings

__all__ = ["AdminSettings", "Settings"]
