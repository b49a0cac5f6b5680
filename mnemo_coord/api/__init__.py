"""The HTTP API of one instance. It translates requests into calls of the coordinator and decides nothing."""
