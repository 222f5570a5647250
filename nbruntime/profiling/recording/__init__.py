"""The parts of a recorder: what it notes of requests, of the server's load and steps, and of its traces."""
