"""What a process other than rank 0 says last: that the memory of its GPU was too small.

A process that runs out of memory is gone before it could tell rank 0, which sees no more than that
its peers are gone, and is ended itself right after.  So it writes that into the result's file of
its machine.  Where that is rank 0's, rank 0 keeps the claim when it writes its own last result;
elsewhere whoever runs the processes finds it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from zeus_runtime.protocol import Outcome, Result
from zeus_runtime.result_file import ResultFile
from zeus_runtime.settings import RunSettings


def say_out_of_memory(file: ResultFile, result: Result) -> None:
    """Write that memory was short, unless the run had ended otherwise before.

    Args:
        result: of the run, as far as this process knows it.
    """
    if result.outcome is None:
        outcome = Outcome.OUT_OF_MEMORY.value
        file.write(replace(result, outcome=outcome, sequence=result.sequence + 1))


def others_ran_out(file: ResultFile, settings: RunSettings) -> bool:
    """Whether another process of this attempt has left that word in the file."""
    found: Optional[Result] = file.read()
    if found is None or found.outcome != Outcome.OUT_OF_MEMORY.value:
        return False
    theirs = (found.job, found.recurrence, found.attempt)
    return theirs == (settings.job, settings.recurrence, settings.attempt)
