"""Clients of one server: `RuntimeEndpoint`, and what an asynchronous caller needs.

Floor 2. A client holds connections and an API key, and nothing of the server's life: starting and
stopping a server is `nbruntime.runtime`.
"""

from nbruntime.endpoint.runtime_endpoint import RuntimeEndpoint

__all__ = ["RuntimeEndpoint"]
