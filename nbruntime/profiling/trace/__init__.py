"""Reads traces of the server's profiler."""
