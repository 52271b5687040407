"""Decides which callers may connect, send, and manage. No I/O; knows neither connections nor Starlette."""

from wsgateway.auth.admin import Access

__all__ = ["Access"]
