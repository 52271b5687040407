"""The connections of this process, and fan-out. Does not know hooks, protocols, or sockets."""
