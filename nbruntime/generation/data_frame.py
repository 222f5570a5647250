"""Makes pandas tables where pandas is installed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nbruntime.errors import MissingPackageError

if TYPE_CHECKING:
    import pandas


def data_frame(rows: Iterable[Sequence[object]], columns: Sequence[str], *, instead: str) -> pandas.DataFrame:
    """Return a pandas table.

    Parameters
    ----------
    rows : iterable of sequences
        The rows.
    columns : sequence of str
        Their names.
    instead : str
        What serves without pandas, for the error.

    Raises
    ------
    MissingPackageError
        If pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingPackageError(
            "to_frame() needs pandas", hint=f"Install it: pip install pandas. Or use {instead}."
        ) from error
    return pandas.DataFrame(list(rows), columns=list(columns))
