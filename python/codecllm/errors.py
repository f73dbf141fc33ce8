"""What can go wrong. Every exception carries the library's words: what was wrong, where, and what to do."""

from __future__ import annotations


class Error(Exception):
    """Base of all errors of this package.

    position: byte offset in the blob or file the message names, or index of the weight or job; None where there is none.
    """

    def __init__(self, message: str, position: int | None = None):
        super().__init__(message)
        self.position = position


class ArgumentError(Error, ValueError):
    """The caller asked for something that makes no sense."""


class FormatError(Error, ValueError):
    """Bytes are not what they should be: corrupt, cut short, or no blob at all."""


class FileError(Error, OSError):
    """The operating system refused: a missing file, no permission."""


class OutOfMemory(Error, MemoryError):
    """An allocation failed, on the host or on the GPU."""


class Unsupported(Error, RuntimeError):
    """Well-formed, but it cannot be done here: no GPU, a library that is missing."""


class DeviceError(Error, RuntimeError):
    """A GPU or its driver failed."""


class FallbackWarning(RuntimeWarning):
    """Something runs on the CPU that was meant for a GPU; the text says why. `strict=True` makes it an error."""


class UncheckedWarning(UserWarning):
    """A directory has no manifest, so its weights were loaded without comparing hashes."""


# by cllm_status
BY_STATUS: dict[int, type[Error]] = {
    1: ArgumentError,
    2: FormatError,
    3: FileError,
    4: OutOfMemory,
    5: Unsupported,
    6: FileError,
    7: DeviceError,
    8: Error,
    9: FormatError,
    10: Error,
}
