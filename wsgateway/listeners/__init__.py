"""The application's hooks: loaded, and run in order. Does not know bytes or transports."""
