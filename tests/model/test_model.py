"""The protocol as built keeps its promises under each single fault; without any one of its rules it does not."""

import pytest

from tests.model.rules import ALL, MUTANTS, NETS, Fault, Rule
from tests.model.search import Search


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
def test_all_rules_on_no_violation(fault: Fault) -> None:
    finding = Search(ALL, frozenset({fault})).run()
    assert finding.wrong is None, str(finding)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    finding = Search(ALL - mutant.off, mutant.faults, frozenset({mutant.caught_as})).run()
    assert finding.wrong is mutant.caught_as, str(finding)


def test_every_rule_has_a_mutant() -> None:
    assert frozenset().union(*(mutant.off for mutant in MUTANTS.values())) == ALL


@pytest.mark.parametrize("rule", NETS, ids=lambda rule: rule.name.lower())
def test_rule_with_a_second_net_is_not_missed_alone(rule: Rule) -> None:
    [mutant] = [m for m in MUTANTS.values() if rule in m.off]
    finding = Search(ALL - {rule}, mutant.faults).run()
    assert finding.wrong is None, str(finding)
