"""Reads the embedded server's log of its steps, ``/step_log``."""

from __future__ import annotations

import msgspec

from nbruntime.errors import ProtocolError

ROUTE = "/step_log"
"""The route; SGLang has none."""

PREFILL_STAGES = frozenset(("EXTEND", "PREFILL", "MIXED", "SPLIT_PREFILL", "DLLM_EXTEND"))
"""Stages that compute prompts, also beside decoding, by the names of SGLang 0.5.23."""


class Step(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One forward pass of the model.

    Parameters
    ----------
    stage : str
        ``"EXTEND"`` (prefill) or ``"DECODE"``, as in SGLang's traces, which know further ones.
    start, duration : float
        Unix time, and seconds.
    batch_size, tokens : int
        Number of sequences, and of tokens computed for them together.
    number : int
        Place among the server's steps; -1 if unknown, as in a trace.
    rids : tuple of str
        Requests of the batch; empty if unknown, as in a trace.
    rid_tokens : tuple of int
        Tokens computed for each of `rids`.
    waiting : int or None
        Queued requests when the step began.
    used_tokens : int or None
        Tokens in the KV cache when the step ended.
    retracted : tuple of str
        Requests that were put back into the queue to make room for this step.
    failed : bool
        Whether it ended in an error; its tokens were not computed, and its requests were aborted.
    """

    stage: str
    start: float
    duration: float
    batch_size: int
    tokens: int
    number: int = -1
    rids: tuple[str, ...] = ()
    rid_tokens: tuple[int, ...] = ()
    waiting: int | None = None
    used_tokens: int | None = None
    retracted: tuple[str, ...] = ()
    failed: bool = False

    @property
    def end(self) -> float:
        """Unix time of its end."""
        return self.start + self.duration

    @property
    def is_prefill(self) -> bool:
        """Whether it computed prompts, perhaps beside decoding."""
        return self.stage in PREFILL_STAGES

    def is_prefill_of(self, rid: str) -> bool:
        """Whether it computed the prompt of one of its requests: a mixed step also decodes some.

        Examples
        --------
        >>> step = Step("MIXED", 0.0, 0.1, 2, 65, rids=("a", "b"), rid_tokens=(64, 1))
        >>> step.is_prefill_of("a"), step.is_prefill_of("b")
        (True, False)
        """
        if self.stage != "MIXED" or len(self.rid_tokens) != len(self.rids):
            return self.is_prefill
        return self.rid_tokens[self.rids.index(rid)] != 1


class StepLog(msgspec.Struct, frozen=True):
    """Steps that a server has kept.

    Parameters
    ----------
    server_time : float
        The server's clock when it answered, as Unix time.
    oldest : int
        Number of the oldest step that the server still has.
    steps : list of Step
        In their order.
    more : bool
        Whether later steps did not fit into the answer.
    """

    server_time: float
    oldest: int
    steps: list[Step]
    more: bool = False


_decode = msgspec.json.Decoder(StepLog).decode
_encode = msgspec.json.Encoder().encode


def write_step_log(log: StepLog) -> bytes:
    """Write the JSON of the route.

    Examples
    --------
    >>> write_step_log(StepLog(12.5, 0, []))
    b'{"server_time":12.5,"oldest":0,"steps":[],"more":false}'
    """
    return _encode(log)


def read_step_log(body: str | bytes, *, where: str | None = None) -> StepLog:
    """Read the JSON of the route; ProtocolError if it is something else.

    Examples
    --------
    >>> body = '{"server_time": 12.5, "oldest": 0, "steps": []}'
    >>> read_step_log(body)
    StepLog(server_time=12.5, oldest=0, steps=[], more=False)
    """
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"The answer is not a step log: {error}", where=where) from None
