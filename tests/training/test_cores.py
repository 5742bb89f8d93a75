from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from stillwatch.data.errors import InputError
from stillwatch.training.cores import in_processes, one_thread


def used(number: int) -> tuple[int, int, int]:
    # So that libraries that start their threads late have done so.
    np.ones((64, 64)) @ np.ones((64, 64))
    most = max(own["num_threads"] for own in threadpool_info())
    return number, os.getpid(), max(most, torch.get_num_threads())


def refused() -> tuple[int, int, int]:
    raise InputError("streams must be there, however: there are none")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("processes", [2, 9])
def test_results_come_in_order_of_one_thread_each(processes: int) -> None:
    found = list(in_processes([partial(used, n) for n in range(4)], processes))
    assert [number for number, _, _ in found] == [0, 1, 2, 3]
    assert {threads for _, _, threads in found} == {1}
    assert os.getpid() not in {process for _, process, _ in found}


def test_one_process_is_this_one() -> None:
    with one_thread():
        found = list(in_processes([partial(used, n) for n in range(2)], 1))
    assert found == [(0, os.getpid(), 1), (1, os.getpid(), 1)]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_job_refuses_is_told(processes: int) -> None:
    with pytest.raises(InputError, match="streams must be there, however"):
        list(in_processes([partial(used, 0), partial(refused)], processes))


@pytest.mark.usefixtures("two_threads")
def test_threads_are_given_back_after_an_error() -> None:
    with pytest.raises(InputError), one_thread():
        refused()
    assert torch.get_num_threads() == 2
