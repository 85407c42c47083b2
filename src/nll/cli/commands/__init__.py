"""The subcommands: their options, help and checks. What computes is imported when one runs."""
