"""Turns a scheduler's step into tensors for the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nbruntime.embedded.engine.request import Request
from nbruntime.embedded.engine.scheduler import DecodeStep, ExtendPart, ExtendStep
from nbruntime.embedded.runner.batch import DecodeGroup, ExtendSegment, ForwardBatch, index

SHORT_CONTEXT = 128
"""Context length up to which padding costs less than another call of attention."""


@dataclass(frozen=True, slots=True)
class PartRows:
    """The rows of the logits that belong to a part of an extend step."""

    part: ExtendPart
    prompt_rows: slice  # rows that predict prompt tokens, for their log-probabilities
    first: int  # position of the first of these prompt tokens
    final_row: int | None  # row that predicts the next token, if the part completes its request


def extend_batch(step: ExtendStep) -> tuple[ForwardBatch, list[PartRows]]:
    """Lay out an extend step; the second result has one entry per part of the step."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    logit_rows: list[int] = []
    segments: list[ExtendSegment] = []
    rows: list[PartRows] = []
    for part in step.parts:
        request, begin, end = part.request, part.start, part.start + part.length
        offset = len(ids) - begin
        ids.extend(request.token_ids[begin:end])
        positions.extend(range(begin, end))
        slots.extend(request.span.slots[begin:end])
        segments.append(ExtendSegment(begin + offset, part.length, index(request.span.slots[:end])))
        first_row = len(logit_rows)
        predicting = _predicting(request, begin, end)
        logit_rows.extend(position + offset for position in predicting)
        prompt_rows = slice(first_row, len(logit_rows))
        final_row = None
        if part.completes:
            final_row = len(logit_rows)
            logit_rows.append(end - 1 + offset)
        rows.append(PartRows(part, prompt_rows, predicting.start + 1, final_row))
    batch = ForwardBatch(
        index(ids), index(positions), index(slots), index(logit_rows), segments=tuple(segments)
    )
    return batch, rows


def _predicting(request: Request, begin: int, end: int) -> range:
    """Positions in [begin, end) whose logits give a wanted log-probability of a prompt token."""
    if request.logprobs is None or request.output_ids:
        return range(begin, begin)
    begin = max(begin, request.logprobs.start)
    return range(begin, max(begin, min(end, len(request.prompt_ids) - 1)))


def decode_batch(step: DecodeStep) -> ForwardBatch:
    """Lay out a decode step: the last token of each request, shorter contexts first."""
    order = sorted(range(len(step.requests)), key=lambda place: step.requests[place].length)
    requests = [step.requests[place] for place in order]
    return ForwardBatch(
        input_ids=index([request.output_ids[-1] for request in requests]),
        positions=index([request.length - 1 for request in requests]),
        slots=index([request.span.slots[-1] for request in requests]),
        logit_rows=torch.tensor(order).argsort(),
        groups=tuple(_decode_groups(requests)),
    )


def _decode_groups(requests: list[Request]) -> Iterator[DecodeGroup]:
    """Split requests, sorted by length, so that padding at most doubles a long context."""
    start = 0
    while start < len(requests):
        limit = max(SHORT_CONTEXT, 2 * requests[start].length)
        end = start + 1
        while end < len(requests) and requests[end].length <= limit:
            end += 1
        yield _decode_group(start, requests[start:end])
        start = end


def _decode_group(start: int, requests: list[Request]) -> DecodeGroup:
    lengths = [request.length for request in requests]
    contexts = np.zeros((len(requests), lengths[-1]), dtype=np.int64)
    for row, request in enumerate(requests):
        contexts[row, : lengths[row]] = request.span.slots
    mask = None
    if lengths[0] < lengths[-1]:
        mask = torch.arange(lengths[-1]) < index(lengths).view(-1, 1, 1, 1)
    return DecodeGroup(start, torch.from_numpy(contexts), mask)
