from __future__ import annotations

import pytest

from audited import Unlearned, unlearned_in


@pytest.fixture(scope="session")
def unlearned(tmp_path_factory: pytest.TempPathFactory) -> Unlearned:
    """Made once, and looked at only: tests copy what they change."""
    return unlearned_in(tmp_path_factory.mktemp("audit"))
