"""What went wrong, as a sentence and an exit code; what has neither is a defect of ours and shows itself."""

from pulsering import errors
from pulsering_server.cli.exits import CANNOT_REACH, FAILED, MISUSED
from pulsering_server.cli.misuse import Misuse
from pulsering_server.config_errors import ConfigErrors

__all__ = ["exit_code_of", "explain"]


def exit_code_of(error: BaseException) -> int | None:
    """Return what an error stands for, or None if it is a defect of ours."""
    match error:
        case Misuse() | ConfigErrors() | errors.ConfigError() | errors.ClusterMismatch():
            return MISUSED
        case errors.NodeUnavailable() | errors.CallTimeout():
            return CANNOT_REACH
        case errors.PresenceError() | OSError():
            return FAILED
    return None


def explain(error: BaseException) -> str:
    """Return what a person should read: configuration errors are whole, others get our name."""
    return str(error) if isinstance(error, ConfigErrors) else f"pulsering: {error}"
