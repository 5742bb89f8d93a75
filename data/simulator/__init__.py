"""Composes labelled streams of campaigns and of ordinary accounts from corpora and templates."""
