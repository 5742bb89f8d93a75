"""The analyst's pages: what is flagged and why, similar prompts, decisions, templates, drift."""

from stillwatch.serving.pages.router import pages_router
from stillwatch.serving.pages.site import Site
from stillwatch.serving.pages.workplace import Workplace, open_workplace

__all__ = ["Site", "Workplace", "open_workplace", "pages_router"]
