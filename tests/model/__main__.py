"""`python -m tests.model`: all rules on, each kind of fault alone, then each mutant with its shortest way.

--pairs: every pair of kinds, all rules on (hours on few cores; --of KIND for those with one kind).
--off RULE...: these rules off, each kind of fault alone.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import combinations
from multiprocessing import Pool

from tests.model.rules import ALL, MUTANTS, Fault, Rule
from tests.model.search import Search, SearchTooLarge

Task = tuple[str, frozenset[Rule], frozenset[Fault]]


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    rules = ALL - {Rule[name] for name in options.off}
    kinds: Iterable[tuple[Fault, ...]] = combinations(Fault, 2 if options.pairs else 1)
    for faults in kinds:
        if not options.of or Fault[options.of] in faults:
            names = " + ".join(fault.name.lower() for fault in faults)
            yield names, rules, frozenset(faults)
    if not options.pairs and not options.off and not options.of:
        for name, mutant in MUTANTS.items():
            yield f"MUTANT {name}", ALL - mutant.off, mutant.faults


def _run(task: Task) -> tuple[str, str, float]:
    name, rules, faults = task
    begin = time.monotonic()
    try:
        text = str(Search(rules, faults).run())
    except SearchTooLarge as error:
        text = f"NOT SEARCHED TO THE END: {error}"
    return name, text, time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--of", choices=[fault.name for fault in Fault])
    parser.add_argument("--off", nargs="*", default=[], choices=[rule.name for rule in Rule])
    with Pool() as pool:
        for name, text, seconds in pool.imap(_run, _tasks(parser.parse_args())):
            sys.stdout.write(f"{name}: {text}  [{seconds:.1f} s]\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
