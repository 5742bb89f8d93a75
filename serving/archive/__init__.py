"""The archive of scored prompts and the search over it."""

from stillwatch.serving.archive.archive import PromptArchive
from stillwatch.serving.archive.feed import ArchiveFeed
from stillwatch.serving.archive.results import Filters
from stillwatch.serving.archive.rows import Batch, Row, batch_of, encoder_id
from stillwatch.serving.archive.settings import ArchiveSettings

__all__ = [
    "ArchiveFeed",
    "ArchiveSettings",
    "Batch",
    "Filters",
    "PromptArchive",
    "Row",
    "batch_of",
    "encoder_id",
]
