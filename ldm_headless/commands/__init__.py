"""The subcommands of `ldm`: their options, and what they print."""
