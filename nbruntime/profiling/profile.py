"""`Profile`: what a stretch of work cost."""

from __future__ import annotations

from nbruntime.profiling.profile_data import ProfileData


class Profile(ProfileData):
    """A record of the requests, the load and the steps of a stretch of work."""
