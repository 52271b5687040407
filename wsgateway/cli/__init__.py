"""The command `wsgateway`."""
