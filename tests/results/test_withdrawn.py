"""A version of a protocol that was raised is withdrawn, with a reason."""

from densebench.protocols import PROTOCOLS
from densebench.results.withdrawn import FILE, withdrawn


def test_every_version_before_that_of_today_is_withdrawn_and_no_other():
    listed = {tuple(line.split(",")[:2]) for line in FILE.read_text().splitlines()[1:]}
    raised = {(name, str(v)) for name in PROTOCOLS.names() for v in range(1, PROTOCOLS[name].version)}
    assert listed == raised


def test_a_reason_is_said_for_what_is_withdrawn_alone():
    assert "NMI" in withdrawn("positional_effect", 3)
    assert withdrawn("positional_effect", 4) == withdrawn("nobodys", 1) == ""
