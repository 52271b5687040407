"""One gateway, assembled. Does not know uvicorn or settings files."""
