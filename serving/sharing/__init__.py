"""Intelligence shared between providers: what goes out of a desk, and what comes into one."""

from stillwatch.serving.sharing.incoming import Importer, Outcome, Report
from stillwatch.serving.sharing.ledger import Ledger
from stillwatch.serving.sharing.shelf import Shelf

__all__ = ["Importer", "Ledger", "Outcome", "Report", "Shelf"]
