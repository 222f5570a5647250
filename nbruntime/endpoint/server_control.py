"""The methods of `RuntimeEndpoint` that concern the server itself."""

from __future__ import annotations

from typing import Any, Unpack

from nbruntime.display.upper_floors import upper_class
from nbruntime.endpoint import server_operations
from nbruntime.endpoint.base_client import BaseClient
from nbruntime.endpoint.http import INFO_TIMEOUT
from nbruntime.endpoint.options import ProfileOptions, takes
from nbruntime.endpoint.transport import Transport
from nbruntime.protocol.load import Load


class ServerControl(BaseClient):
    """Read the state of a server, and control it; `RuntimeEndpoint` is the only subclass."""

    _transport: Transport

    def _read_model_info(self) -> dict[str, Any]:
        return self._transport.run(server_operations.read_model_info(self._capabilities))

    def get_model_name(self) -> str:
        """Name or path of the model, as the server has it (``model_path``)."""
        return str(self.model_info["model_path"])

    def get_server_info(self) -> dict[str, Any]:
        """Read the server's arguments, and figures of its scheduler."""
        return self._transport.run(server_operations.read_server_info(self._capabilities))

    def models(self) -> list[dict[str, Any]]:
        """Read the cards of the model and its adapters, with ``id``, ``max_model_len`` and ``parent``."""
        return self._transport.run(server_operations.read_models())

    def loads(self) -> list[Load]:
        """Read how busy each data-parallel rank is; servers up to 0.5.2 only give a number of tokens."""
        return self._transport.run(server_operations.read_load())

    def health(self) -> bool:
        """Ask whether the server can generate (SGLang: 1 s or more); False also if no server answers."""
        return self._transport.run(server_operations.is_healthy())

    def flush_cache(self) -> None:
        """Empty the KV cache; a BadRequestError while requests are running."""
        self._transport.run(server_operations.flush_cache())

    def abort_all(self) -> None:
        """Stop every request on the server, including those of other clients."""
        self._transport.run(server_operations.abort_all())

    @takes(ProfileOptions)
    def start_profile(self, output_dir: str | None = None, **options: Unpack[ProfileOptions]) -> None:
        """Start the server's profiler.

        Parameters
        ----------
        output_dir : str, optional
            Folder of the traces, on the server's disk.
        **options
            ``start_step``, ``num_steps`` (int): first step of the scheduler, number of steps to record;
            ``activities`` (list of str): of ``"CPU"`` and ``"GPU"``, the default, ``"MEM"``, ``"RPD"`` and
            ``"CUDA_PROFILER"``; ``profile_stages`` (list of str): stages to record, all by default;
            ``profile_by_stage`` (bool): one trace for prefill and one for decode; ``with_stack``,
            ``record_shapes`` (bool): record Python stacks, shapes of tensors; ``merge_profiles`` (bool): also
            write one trace of all ranks; ``detailed_annotations`` (bool): record figures of the KV cache and
            the requests with each step; ``profile_id``, ``profile_prefix`` (str): parts of the file names.
        """
        self._transport.run(server_operations.start_profile({"output_dir": output_dir, **options}))

    def stop_profile(self) -> None:
        """Stop the server's profiler; returns when the traces are written."""
        self._transport.run(server_operations.stop_profile())

    def get(self, path: str, *, timeout: float = INFO_TIMEOUT) -> str:
        """Read any route that changes nothing, and give its text; only the client's own key is masked.

        Parameters
        ----------
        path : str
            Route, such as ``"/metrics"``.
        timeout : float
            Seconds to wait at most for a connection, and for the answer.
        """
        return self._transport.run(server_operations.read_text(path, timeout))

    def panel(self, **options: Any) -> Any:
        """Make a live panel of the server: `nbruntime.notebook.views.panel.ServerPanel` with its options."""
        return upper_class("panel")(self, **options)
