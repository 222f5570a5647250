"""The result of one request: a stream while it runs, a record afterwards.

Floor 1: the standard library only. A stream does not know HTTP: it takes an iterator of bytes, a function
that closes the answer, and one that aborts the request.
"""

from nbruntime.generation.async_stream import AsyncGenerationStream
from nbruntime.generation.explanation import Explanation
from nbruntime.generation.finish_reason import FinishReason
from nbruntime.generation.generations import Generations
from nbruntime.generation.record import Generation
from nbruntime.generation.stream import GenerationStream
from nbruntime.generation.timings import Timings
from nbruntime.generation.tokens import Token
from nbruntime.generation.usage import Usage, usage

__all__ = [
    "AsyncGenerationStream",
    "Explanation",
    "FinishReason",
    "Generation",
    "GenerationStream",
    "Generations",
    "Timings",
    "Token",
    "Usage",
    "usage",
]
