"""What is done with several profiles: ``nbruntime.profiles``."""

from __future__ import annotations

from nbruntime.errors import ArgumentTypeError
from nbruntime.profiling.comparison import Comparison
from nbruntime.profiling.profile_data import ProfileData

__all__ = ["Comparison", "compare"]


def compare(first: ProfileData, second: ProfileData, *, names: tuple[str, str] = ("a", "b")) -> Comparison:
    """Put two profiles side by side, and judge whether they differ by more than their requests do.

    Parameters
    ----------
    first, second : Profile
        The profiles.
    names : tuple of (str, str)
        What they are called.

    Raises
    ------
    ArgumentTypeError
        If an argument is not a profile.

    Examples
    --------
    >>> from nbruntime.profiling.records import RequestRecord
    >>> def profile(ttft):
    ...     return ProfileData(requests=[RequestRecord("a", 0.0, 1.0, ((ttft, 1),))])
    >>> compare(profile(0.2), profile(0.1)).differences[0].change
    -0.5
    """
    for each in (first, second):
        if not isinstance(each, ProfileData):
            raise ArgumentTypeError(
                f"Not a profile: {type(each).__name__}",
                hint="Pass what endpoint.profile() or Profile.load() gives.",
            )
    return Comparison(first, second, (str(names[0]), str(names[1])))
