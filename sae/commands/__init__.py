"""The subcommands of `python -m sae`: each module has HELP, add_arguments(parser) and run(arguments)."""
