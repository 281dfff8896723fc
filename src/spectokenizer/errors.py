"""Named errors. Each says what was seen and what is wanted; the CLI prints them without a traceback."""


class SpecTokenizerError(Exception):
    """Base class of every error this package raises on purpose."""


class ConfigError(SpecTokenizerError):
    """A configuration or training file holds a value that cannot work."""


class ModelError(SpecTokenizerError):
    """A model cannot be found, read, or is not the one that the data needs."""


class TrainingError(SpecTokenizerError):
    """Training cannot go on; the message says what happened and what to change."""


class AudioError(SpecTokenizerError):
    """Audio that cannot be used: wrong shape or type, not finite, unreadable file."""


class CodesError(SpecTokenizerError):
    """Codes that do not fit the model: wrong shape, type or range."""


class BitrateError(SpecTokenizerError):
    """A bitrate that the model does not have."""


class StreamError(SpecTokenizerError):
    """A stream used out of order, for instance pushed after flush."""


class FormatError(SpecTokenizerError):
    """A container that cannot be read; the message says what is wrong and at which byte."""


class TruncatedError(FormatError):
    """The file or pipe ends before it should."""


class CorruptedError(FormatError):
    """A checksum does not match or a field has an impossible value."""


class VersionError(FormatError):
    """The file was written by a newer version of the format."""
