"""What a log line, or a warning, says of a save. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

from holdfast.errors import HoldfastError
from holdfast.log import size
from holdfast.policy.values import Record

AGAIN = "Once the cause is gone, the next save tries again."
SAVE_AGAIN = "Once the cause is gone, save again."
START_AGAIN = "Once the cause is gone, start the run again."


def after(checkpoint: str, trouble: HoldfastError) -> str:
    """What failed once a checkpoint was there."""
    good = "It is whole and durable; not all that it replaces has been evicted."
    parts = (f"checkpoint '{checkpoint}' was saved, and then: {trouble.what}", good, trouble.remedy, AGAIN)
    return " ".join(filter(None, parts))


def line(record: Record, evicted: Sequence[str], *, begun: float, not_finite: Sequence[str]) -> str:
    """One line on a save that is durable.

    Args:
        record: The checkpoint.
        evicted: Names that went.
        begun: When it was captured, on the clock of ``time.perf_counter``.
        not_finite: Trained weights that hold NaN or infinity.
    """
    seconds = time.perf_counter() - begun
    sick = f"; NOT FINITE: {', '.join(not_finite[:3])}" if not_finite else ""
    gone = f"; evicted {', '.join(evicted)}" if evicted else ""
    told = f"saved {', '.join(record.names)} ({record.reason}), {size(record.bytes)}, durable in {seconds:.2f} s"
    return f"{told}{sick}{gone}"
