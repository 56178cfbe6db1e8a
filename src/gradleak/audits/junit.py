"""The outcome of an audit as JUnit XML, which continuous integration shows beside other tests."""

from collections.abc import Sequence
from xml.etree import ElementTree

from gradleak.audits.limits import Checked
from gradleak.audits.records import TrialRecord
from gradleak.audits.report.words import cell


def junit_xml(name: str, checked: Sequence[Checked], records: Sequence[TrialRecord], missing: int = 0) -> bytes:
    """One test case for each limit in each cell, one for each crashed trial, and one for trials that were never run.

    Args:
        name: of the suite.
        checked: limits, see `check_limits`.
        records: of the store.
        missing: planned trials without a record.

    Returns:
        The file's bytes.
    """
    suite = ElementTree.Element("testsuite", name=_legal(name))
    failures = errors = 0
    for one in checked:
        title = f"success rate at {one.threshold:g} dB below {100 * one.below:g} %"
        case = ElementTree.SubElement(suite, "testcase", classname=_legal(cell(one.cell)), name=title)
        if one.state == "exceeded":
            failures += 1
            ElementTree.SubElement(case, "failure", message=_legal(one.describe())).text = _legal(one.describe())
        elif one.state == "missing":
            errors += 1
            ElementTree.SubElement(case, "error", message=_legal(one.describe()))
    for record in records:
        if record.status == "error":
            errors += 1
            where = f"{record.attack} on {record.data}"
            case = ElementTree.SubElement(suite, "testcase", classname=_legal(where), name=f"trial {record.id}")
            ElementTree.SubElement(case, "error", message=_legal(record.message)).text = _legal(record.traceback)
    if missing:
        errors += 1
        case = ElementTree.SubElement(suite, "testcase", classname="audit", name="every trial was run")
        ElementTree.SubElement(case, "error", message=f"{missing} trials have no result; run the same command again")
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    suite.set("errors", str(errors))
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _legal(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return "".join(
        c if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c < "\ufffe") else "?" for c in text
    )
