"""A server's load and latencies over time."""
