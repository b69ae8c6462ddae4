"""What a speed session says about itself. Example: why_ended(session)"""

from __future__ import annotations

from bench.core.text import plural
from bench.store.records import Session

STOPPED = {
    "narrow": "enough to know every ratio within ±{within:g} %",
    "limit": "stopped by the time limit; ±{within:g} % would have taken {planned}",
    "blocks": "stopped before every ratio was known within ±{within:g} %",
    "alone": "one model, so no ratios",
}


def why_ended(session: Session) -> str:
    """Why a session ended, for its note."""
    within = 100 * (0.02 if session.half_width is None else session.half_width)
    planned = plural(session.planned_blocks or session.blocks, "block")
    return STOPPED[session.stopped].format(within=within, planned=planned)
