#!/usr/bin/env python3
"""The operator's command line. Every command takes `--data DIR` (or PROMINENCE_DATA)."""

import os
import sys


def take_data_option(argv: list[str]) -> list[str]:
    """Move `--data DIR` from the arguments into the environment, where settings look for it."""
    rest = []
    words = iter(argv)
    for word in words:
        if word == "--data":
            os.environ["PROMINENCE_DATA"] = next(words, "")
        elif word.startswith("--data="):
            os.environ["PROMINENCE_DATA"] = word.partition("=")[2]
        else:
            rest.append(word)
    return rest


def main() -> None:
    argv = take_data_option(sys.argv)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "prominence.settings")
    try:
        from django.core.management import execute_from_command_line  # noqa: PLC0415 the message below needs the try
    except ImportError as error:
        raise SystemExit(f"{error}: run 'make install', then use .venv/bin/python") from error
    execute_from_command_line(argv)


if __name__ == "__main__":
    main()
