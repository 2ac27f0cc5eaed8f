"""What an earlier process left claimed, as after a crash: any step may have been cut off."""

from __future__ import annotations

import time
from pathlib import Path

from ..storage.ledger import DropRow, Ledger
from .claims import Claim, Claims
from .quarantine import Quarantine


def recover_claims(inbox: Path, claims: Claims, quarantine: Quarantine, ledger: Ledger) -> list[Claim]:
    """Make the ledger agree with what lies in the claimed folder, and return that."""
    claimed = claims.recover()
    ids = {claim.id for claim in claimed}
    for row in ledger.claimed(inbox):
        if row.id not in ids:
            _settle_row(row, inbox, claims, quarantine, ledger)
    for claim in claimed:
        ledger.claim(claim.id, inbox, claim.relative, time.time())
    return claimed


def _settle_row(drop: DropRow, inbox: Path, claims: Claims, quarantine: Quarantine, ledger: Ledger) -> None:
    """A drop that is claimed in the ledger only was never taken, or its last step was not noted."""
    if quarantine.report(drop.id):
        ledger.finish(drop.id, "quarantined", time.time())
    elif (inbox / drop.path).exists() and not claims.markers.is_done(drop.path):
        ledger.unclaim(drop.id)
    else:
        ledger.finish(drop.id, "done", time.time())
