# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tables on the terminal."""

import numbers
from collections.abc import Iterable, Sequence


def format_cell(cell: object, decimals: int | None = None) -> str:
    """
    Returns the text of a cell: floats, NumPy's too, with 4 significant digits or with so many decimals, and a dash for
    `None`.
    """
    if cell is None:
        return "–"
    is_float = isinstance(cell, numbers.Real) and not isinstance(cell, numbers.Integral)
    if not is_float:
        return str(cell)
    return f"{cell:.4g}" if decimals is None else f"{cell:.{decimals}f}"


def print_table(rows: Iterable[Sequence[object]], headers: Sequence[str] | None = None) -> None:
    """
    Prints a table to stdout: text to the left, numbers to the right.

    Args:
        rows (`Iterable[Sequence[object]]`):
            The rows, all of the same length.
        headers (`Sequence[str]`, *optional*):
            Names of the columns.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD if headers else None, show_header=headers is not None, pad_edge=False)
    for index in range(len(rows[0]) if rows else len(headers or ())):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(headers[index] if headers else "", justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(format_cell(cell)) for cell in row))
    Console(highlight=False).print(table)
