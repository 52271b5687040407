"""The hooks of the application: loaded, and run in order. Knows neither bytes nor transports."""
