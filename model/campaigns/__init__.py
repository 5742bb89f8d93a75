"""Campaign linking: accounts that act as one, found, read as one stream and judged."""
