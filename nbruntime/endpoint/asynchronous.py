"""What the owner of a blocking endpoint needs within an event loop; ``Runtime`` stands on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from nbruntime.endpoint.async_runtime_endpoint import AsyncRuntimeEndpoint
from nbruntime.endpoint.runtime_endpoint import RuntimeEndpoint
from nbruntime.protocol.requests import Prompt


async def stream_text(
    endpoint: RuntimeEndpoint,
    prompt: Prompt,
    *,
    sampling_params: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> AsyncGenerator[str, None]:
    """Generate, and give the text as it comes.

    Leaving the generator in any way, also by cancelling its task, stops the generation on the server.

    Parameters
    ----------
    endpoint : RuntimeEndpoint
        Whose server to ask; only its settings are used.
    prompt : str or list of int
        One prompt.
    sampling_params : mapping, optional
        Sampling parameters by SGLang's names.
    **arguments
        As in `RuntimeEndpoint.stream`.

    Yields
    ------
    str
        New text.
    """
    async with (
        AsyncRuntimeEndpoint.beside(endpoint) as client,
        await client.stream(prompt, sampling_params=sampling_params, **arguments) as stream,
    ):
        async for text in stream:
            yield text


async def read_server_info(endpoint: RuntimeEndpoint) -> dict[str, Any]:
    """Read the configuration and the state of the server; as `RuntimeEndpoint.get_server_info`."""
    async with AsyncRuntimeEndpoint.beside(endpoint) as client:
        return await client.get_server_info()
