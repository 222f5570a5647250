"""Reads traces of the server's profiler."""

from nbruntime.profiling.trace.reader import read_trace
from nbruntime.profiling.trace.rows import BusyTime, KernelRow, OperatorRow
from nbruntime.profiling.trace.trace import Trace

__all__ = ["BusyTime", "KernelRow", "OperatorRow", "Trace", "read_trace"]
