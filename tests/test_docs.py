"""Do the documents say what the code does?"""

from __future__ import annotations

import re
from pathlib import Path

from sidecar.admission.answers import Reason
from sidecar.proxy.refusals import STATUS_OF, ProxyReason

DOCS = Path(__file__).parent.parent / "docs"
ROW = re.compile(r"^\| `(\w+)` \| ([0-9, ]+) \|", re.MULTILINE)


def test_every_refusal_reason_is_documented_with_its_status() -> None:
    """Who meets a reason finds it in docs/refusals.md; what stands there can be met."""
    rows = dict(ROW.findall((DOCS / "refusals.md").read_text()))
    assert set(rows) == {reason.value for reason in [*Reason, *ProxyReason]}
    for reason, status in STATUS_OF.items():
        assert str(status) in rows[reason.value], reason


def test_links_between_documents_lead_somewhere() -> None:
    """No link within the repository is dead."""
    root = DOCS.parent
    for page in [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("deploy/**/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"
