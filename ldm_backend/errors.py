"""The error family. Every message says what was found, what was expected and what to do. Imports nothing."""


class LDMError(ValueError):
    """Base of everything this project raises on purpose; catch this one to catch them all."""


class ConfigError(LDMError):
    """A configuration file or value that describes no model this project can build."""


class CheckpointError(LDMError):
    """A checkpoint that is missing, damaged, refused for safety, or whose tensors do not fit its configuration."""


class ScheduleError(LDMError):
    """A step count, grid, eta or sampler that is not defined for this schedule."""


class InputError(LDMError):
    """A latent, image, size, seed or model handed to a function or node that cannot take it."""


def first_names(names: list[str] | set[str] | tuple[str, ...], limit: int = 5) -> str:
    """Sorted names for a message, cut after `limit`: 'a, b, c (and 4 more)'."""
    ordered = sorted(names)
    more = f" (and {len(ordered) - limit} more)" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
