"""Everything gesso-export raises on purpose.

ExportError
├── RefusedError                 exit 2: we will not start, or not go on; nothing is left behind
│   ├── CheckpointError          not a checkpoint we export: a component, class, config key or weight it names
│   ├── HubError                 the hub could not give us the checkpoint
│   ├── EngineError              an engine cannot be built as asked, or not on this machine; names the flag
│   └── OutputError              the place to write to: exists, not writable
│       └── NoSpaceError         not enough room for the bundle
├── BuildError                   exit 1: building an engine failed, or it does not compute what its network does
└── VerificationError            exit 1: an artefact is not what it should be
    └── ManifestError            bundle.json is missing or does not follow the schema, naming the key
"""

from __future__ import annotations

_LINE = 1000  # characters


class ExportError(Exception):
    """Base of all of them; the message is one line for a person."""

    exit_code = 2


class RefusedError(ExportError):
    """The request cannot be carried out."""


class CheckpointError(RefusedError):
    """The checkpoint is incomplete, unsafe or of a kind that is not served."""


class HubError(RefusedError):
    """The hub refused, or could not be reached."""


class EngineError(RefusedError):
    """An engine cannot be asked for like this, or not on this machine."""


class OutputError(RefusedError):
    """The output cannot be written."""


class NoSpaceError(OutputError):
    """The disk has no room for the bundle."""


class BuildError(ExportError):
    """A build failed, was killed, or gave an engine that does not compute what its network does."""

    exit_code = 1


class VerificationError(ExportError):
    """A bundle's bytes or values are not what they should be."""

    exit_code = 1


class ManifestError(VerificationError):
    """A bundle's manifest cannot be read."""


def first_line(error: Exception) -> str:
    """What a foreign error says, short enough for one of ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(error: Exception) -> str:
    """A message of ours, whatever names of files, keys and tensors it holds: of printable characters and bounded."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(error) or type(error).__name__)
    return text if len(text) <= _LINE else f"{text[:_LINE]}..."
