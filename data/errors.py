"""The exceptions that a user of Stillwatch can cause.

StillwatchError
├── InputError        a log, label file or corpus that cannot be read
├── OutputError       a destination that cannot be written
├── ConfigError       an option or configuration value
├── MissingError      something that has to be installed or downloaded first
├── BundleError       a bundle that is incomplete, tampered with or of another format
└── StoreError        a store of account states that cannot be reached or has no room

Each message is one sentence that says what must hold, what was found and what to do.
No message holds the text of a prompt.
"""


class StillwatchError(Exception):
    """Base of every error that the command line reports as one line."""


class InputError(StillwatchError):
    """A log, label file or corpus that cannot be used."""


class OutputError(StillwatchError):
    """A destination that cannot be written."""


class ConfigError(StillwatchError):
    """An option or configuration value that cannot be used."""


class MissingError(StillwatchError):
    """A model, extra or file that has to be installed first."""


class BundleError(StillwatchError):
    """A bundle that is incomplete, tampered with or of another format."""


class StoreError(StillwatchError):
    """A store of account states that cannot be reached or has no room."""
