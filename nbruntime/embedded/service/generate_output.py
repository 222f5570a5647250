"""The body of an answer to ``/generate`` or ``/encode``, built from the engine's updates."""

from __future__ import annotations

import math
from typing import Any

from nbruntime.embedded.clock import now
from nbruntime.embedded.engine.request import Request, Update
from nbruntime.embedded.sampling.logprobs import Entry, LogprobRecord
from nbruntime.embedded.text.tokenizer import Tokenizer


class SequenceOutput:
    """The growing output of one sequence.

    `tokenizer` gives the text of tokens in log-probabilities. With `prompt_token_ids` the body holds the
    prompt's tokens.
    """

    def __init__(
        self,
        request: Request,
        weight_version: str,
        tokenizer: Tokenizer | None = None,
        *,
        prompt_token_ids: bool = False,
    ) -> None:
        self.request = request
        self.finish_reason: dict[str, Any] | None = None
        self._weight_version = weight_version
        self._tokenizer = tokenizer
        self._prompt_token_ids = prompt_token_ids
        self._texts: dict[int, str] = {}
        self._text = ""
        self._output_ids: list[int] = []
        self._output: dict[str, list[Any]] = {"token": [], "top": [], "token_ids": []}
        self._input: dict[str, list[Any]] | None = None
        self._sent_text, self._sent_ids = 0, 0
        self._first_sent = 0.0

    def add(self, update: Update) -> None:
        """Add an update."""
        self._text = update.text
        self._output_ids.extend(update.token_ids)
        self.finish_reason = update.finish_reason
        if update.logprobs is not None:
            for name, rows in self._written(update.logprobs).items():
                self._output[name].extend(rows)

    def embedding(self) -> dict[str, Any]:
        """Give the body of ``/encode``."""
        request = self.request
        return {
            "embedding": request.hidden_state,
            "meta_info": {
                "id": request.rid,
                "finish_reason": self.finish_reason,
                "prompt_tokens": len(request.prompt_ids),
                "weight_version": self._weight_version,
                "num_retractions": request.retractions,
                "e2e_latency": request.times.finished - request.times.received,
            },
        }

    def body(self, *, incremental: bool = False, index: int | None = None) -> dict[str, Any]:
        """Give the body so far, or only what is new since the last call; a stream gives the `index`."""
        text_from, ids_from = (self._sent_text, self._sent_ids) if incremental else (0, 0)
        body: dict[str, Any] = {
            "text": self._text[text_from:],
            "output_ids": self._output_ids[ids_from:],
            "meta_info": self._meta_info(ids_from),
        }
        if self._prompt_token_ids:
            body["prompt_token_ids"] = self.request.prompt_ids
        if index is not None:
            body["index"] = index
        self._sent_text, self._sent_ids = len(self._text), len(self._output_ids)
        return body

    def _meta_info(self, ids_from: int) -> dict[str, Any]:
        request, times = self.request, self.request.times
        completion = len(self._output_ids)
        meta: dict[str, Any] = {
            "id": request.rid,
            "finish_reason": self.finish_reason,
            "prompt_tokens": len(request.prompt_ids),
            "weight_version": self._weight_version,
            "num_retractions": request.retractions,
            "forward_entry_time": times.forward_entry,
            "prefill_finished_time": times.prefill_finished,
            "queue_time": max(0.0, times.forward_entry - times.dispatched),
        }
        if request.logprobs is not None:
            meta |= self._logprob_info(ids_from)
        meta |= {
            "reasoning_tokens": 0,
            "completion_tokens": completion,
            "cached_tokens": request.cached_tokens,
            "cached_tokens_details": (
                {"device": request.cached_tokens, "host": 0} if request.cached_tokens else None
            ),
            "dp_rank": None,
        }
        if self.finish_reason is not None:
            meta |= self._final_info(completion)
        # As with SGLang, the first and the last event of a stream say when the first one was sent.
        if not self._first_sent or self.finish_reason is not None:
            self._first_sent = self._first_sent or now()
            meta["response_sent_to_client_ts"] = self._first_sent
        return meta

    def _final_info(self, completion: int) -> dict[str, Any]:
        times = self.request.times
        first = (times.first_token or times.finished) - times.received
        info: dict[str, Any] = {
            "weight_versions": [{"version": self._weight_version, "start": 0, "end": completion}],
            "e2e_latency": times.finished - times.received,
            "request_received_ts": times.received,
            "first_token_latency": first,
            "api_server_dispatch_finish_ts": times.dispatched,
            "request_finished_ts": times.finished,
        }
        decoding = times.finished - times.first_token
        if completion > 1 and decoding > 0:
            info["decode_throughput"] = (completion - 1) / decoding
        return info

    def _logprob_info(self, ids_from: int) -> dict[str, Any]:
        wanted = self.request.logprobs
        assert wanted is not None
        if self._input is None:
            self._input = self._written(self.request.input_logprobs)
        info = {
            "input_token_logprobs": self._input["token"],
            "output_token_logprobs": self._output["token"][ids_from:],
            "output_token_logprobs_length": len(self._output["token"]),
        }
        if wanted.top:
            info["input_top_logprobs"] = self._input["top"]
            info["output_top_logprobs"] = self._output["top"][ids_from:]
        if wanted.token_ids:
            info["input_token_ids_logprobs"] = self._input["token_ids"]
            info["output_token_ids_logprobs"] = self._output["token_ids"][ids_from:]
        return info

    def _written(self, record: LogprobRecord) -> dict[str, list[Any]]:
        """Write a record in the form of the body."""
        return {
            "token": [self._entry(entry) for entry in record.tokens],
            "top": [row and [self._entry(entry) for entry in row] for row in record.top],
            "token_ids": [row and [self._entry(entry) for entry in row] for row in record.chosen],
        }

    def _entry(self, entry: Entry) -> list[Any]:
        logprob, token_id = entry
        if logprob is not None and not math.isfinite(logprob):
            logprob = None  # JSON has no infinity; SGLang writes null, too
        return [logprob, token_id, self._token_text(token_id)]

    def _token_text(self, token_id: int) -> str | None:
        if self._tokenizer is None:
            return None
        if token_id not in self._texts:
            self._texts[token_id] = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return self._texts[token_id]
