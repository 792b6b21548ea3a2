"""What several files of these tests share."""

from __future__ import annotations

import pytest
from review_bench import Bench, make_benches


@pytest.fixture(scope="session")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """Two batches that wait for a look, in one home; each file of tests has one of its own."""
    return make_benches(tmp_path_factory.mktemp("review"))
