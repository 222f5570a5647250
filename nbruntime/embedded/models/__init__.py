"""Finds or fetches a model: from its name to a Hugging Face folder on this machine."""

from nbruntime.embedded.models.progress import Report
from nbruntime.embedded.models.resolve import DEFAULT_REPO, ResolvedModel, resolve_model
from nbruntime.protocol.server_arguments import DEFAULT_MODEL

__all__ = ["DEFAULT_MODEL", "DEFAULT_REPO", "Report", "ResolvedModel", "resolve_model"]
