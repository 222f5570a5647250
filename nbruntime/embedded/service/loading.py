"""Loads the model and starts its engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.cache.token_cache import TokenCache
from nbruntime.embedded.engine.engine import Engine, Post
from nbruntime.embedded.engine.request import Request
from nbruntime.embedded.engine.scheduler import Scheduler
from nbruntime.embedded.models import DEFAULT_MODEL, DEFAULT_REPO, ResolvedModel, resolve_model
from nbruntime.embedded.runner import load_runner
from nbruntime.embedded.runner.protocol import ModelFacts
from nbruntime.embedded.sampling.grammar import GrammarCompiler
from nbruntime.embedded.sampling.sampler import Sampler
from nbruntime.embedded.service.service import Service
from nbruntime.embedded.text.tokenizer import Tokenizer
from nbruntime.errors import ModelNotFoundError

logger = logging.getLogger(__name__)

CACHE_BYTES = 384 * 2**20
"""Default memory of the KV cache; unused pages take none."""

MOST_SLOTS = 2**18
"""Limit of the default size of the KV cache: small models would get millions of tokens."""

MAX_RUNNING = 32
MAX_QUEUED = 4096
CHUNK = 256

Announce = Callable[[str], None]


def load_service(
    arguments: ServerArguments,
    announce: Announce,
    *,
    startup_seconds: dict[str, float],
    post: Post,
    on_finished: Callable[[Request], None],
    on_end: Callable[[], None] = lambda: None,
) -> Service:
    """Load the model and start its engine.

    Parameters
    ----------
    announce : callable
        Takes each phase, with its progress if that is known.
    startup_seconds : dict of str to float
        Filled with the seconds of each phase.
    post, on_end
        As in `Engine`.
    on_finished : callable
        Takes each request that has ended, in the engine's thread.

    Raises
    ------
    LaunchError
        If the model does not exist or is not supported.
    """

    def report(phase: str, done: float | None, total: float | None, unit: str) -> None:
        amounts = "/".join(f"{amount:.1f}" for amount in (done, total) if amount is not None)
        announce(f"{phase} {amounts} {unit}" if amounts else phase)

    @contextmanager
    def timed(name: str):  # type: ignore[no-untyped-def]
        began = time.monotonic()
        yield
        startup_seconds[name] = round(time.monotonic() - began, 3)

    with timed("find_model"):
        model = resolve_model(arguments.model_path, revision=arguments.revision, report=report)
    announce("loading weights")
    with timed("load_weight"):
        torch.set_num_threads(arguments.threads or torch.get_num_threads())
        runner = load_runner(
            model.folder,
            dtype=arguments.dtype,
            context_length=arguments.context_length,
            is_embedding=arguments.is_embedding,
        )
    announce("loading tokenizer")
    with timed("load_tokenizer"):
        tokenizer = _load_tokenizer(arguments, model.folder)
    announce("warming up")
    with timed("warm_up"):
        runner.warm_up()
        capacity = cache_size(arguments, runner.facts)
        runner.allocate_cache(capacity)
    cache = TokenCache(capacity, reuse=not arguments.disable_radix_cache)
    scheduler = Scheduler(
        cache,
        max_running=arguments.max_running_requests or MAX_RUNNING,
        chunk=arguments.chunked_prefill_size or CHUNK,
    )
    max_queued = MAX_QUEUED if arguments.max_queued_requests is None else arguments.max_queued_requests
    engine = Engine(
        runner, scheduler, Sampler(arguments.random_seed), max_queued=max_queued, post=post, on_end=on_end
    )
    engine.stats.on_finished.append(on_finished)
    engine.start()
    facts = runner.facts
    end_token_ids = _end_tokens(facts, tokenizer)
    return Service(
        engine=engine,
        tokenizer=tokenizer,
        grammars=GrammarCompiler(tokenizer, facts.vocab_size, filter(tokenizer.has_token, end_token_ids)),
        facts=facts,
        end_token_ids=end_token_ids,
        model_path=_loadable_name(model),
        tokenizer_path=str(tokenizer.folder) if arguments.tokenizer_path else str(model.folder),
        served_name=arguments.served_model_name or model.name or DEFAULT_MODEL,
        context_length=context_length(arguments, facts, capacity),
        most_sequences=max_queued + scheduler.max_running,
    )


def _end_tokens(facts: ModelFacts, tokenizer: Tokenizer) -> frozenset[int]:
    """Give the tokens that end an answer, by the model or by its tokenizer, and have logits."""
    named = facts.eos_token_ids | tokenizer.end_token_ids
    foreign = {token_id for token_id in named if not 0 <= token_id < facts.vocab_size}
    if foreign:
        logger.warning("end tokens outside of the vocabulary: %s never ends an answer", sorted(foreign))
    return named - foreign


def cache_size(arguments: ServerArguments, facts: ModelFacts) -> int:
    """Give the capacity of the KV cache in tokens: as asked for, or what fits in `CACHE_BYTES`."""
    if arguments.max_total_tokens is not None:
        return arguments.max_total_tokens
    return max(1, min(MOST_SLOTS, CACHE_BYTES // facts.kv_bytes_per_token))


def context_length(arguments: ServerArguments, facts: ModelFacts, capacity: int) -> int:
    """Give the most tokens of prompt and answer together, limited by the KV cache."""
    wanted = arguments.context_length or facts.context_length
    if wanted > capacity:
        logger.info("context length: %d tokens, as many as the KV cache holds (of %d)", capacity, wanted)
    return min(wanted, capacity)


def _loadable_name(model: ResolvedModel) -> str:
    """Give the name that transformers can load: a hub id if there is one, else the folder."""
    if not model.source.startswith("hub"):
        return str(model.folder)
    return DEFAULT_REPO if model.name == DEFAULT_MODEL else model.name


def _load_tokenizer(arguments: ServerArguments, model_folder: Path) -> Tokenizer:
    template = None
    if arguments.chat_template is not None:
        try:
            template = Path(arguments.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise ModelNotFoundError(
                f"The chat template cannot be read: {error}", hint="Give the path of a Jinja file."
            ) from error
    folder = model_folder if arguments.tokenizer_path is None else Path(arguments.tokenizer_path)
    return Tokenizer(folder, template)
