"""Who may connect, send, and administer. No I/O; does not know connections or Starlette."""

from wsgateway.auth.admin import Access

__all__ = ["Access"]
