"""Decides which callers may connect, send, and manage, and checks tokens. No I/O; knows no connections."""

from wsgateway.auth.admin import Access

__all__ = ["Access"]
