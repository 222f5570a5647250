"""What one request gives: a stream while it runs, a record afterwards.

Floor 1: the standard library only. A stream knows nothing of HTTP; it is handed an iterator of bytes and
two functions, one that closes the answer and one that aborts the request on the server.
"""

from nbruntime.generation.async_stream import AsyncGenerationStream
from nbruntime.generation.generations import Generations
from nbruntime.generation.record import FinishReason, Generation, Token
from nbruntime.generation.stream import GenerationStream
from nbruntime.generation.timings import Timings
from nbruntime.generation.usage import Usage, usage

__all__ = [
    "AsyncGenerationStream",
    "FinishReason",
    "Generation",
    "GenerationStream",
    "Generations",
    "Timings",
    "Token",
    "Usage",
    "usage",
]
