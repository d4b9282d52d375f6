"""The command line: `residscope`. Nothing heavy is imported before a command needs it."""


def main() -> None:
    from residscope.cli.app import main as run

    run()
