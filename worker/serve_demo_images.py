"""`python -m worker.serve_demo_images --data DIR --port PORT`: a registry with demonstration images, until SIGTERM."""

import argparse
import signal
import sys
from pathlib import Path

from worker.demo_registry import DemoRegistry, RegistryNotStartedError


def main(words: list[str]) -> int:
    """Serve until told to end; 1 when the registry cannot be started or ends by itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(words)
    awaited = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with DemoRegistry(options.data, port=options.port) as registry:
            registry.push_demo_images()
            # Not before: programs started so far would inherit the mask, and their ends are of no interest.
            signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
            ended = signal.sigwait(awaited)
    except KeyboardInterrupt:
        return 0
    except RegistryNotStartedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 1 if ended == signal.SIGCHLD else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
