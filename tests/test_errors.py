from __future__ import annotations

import pickle

import pytest

from pipeline import errors
from pipeline.errors import PipelineError


def all_errors() -> list[type[PipelineError]]:
    found = [error for error in vars(errors).values() if isinstance(error, type)]
    return [error for error in found if issubclass(error, PipelineError) and error is not errors.Interrupted]


@pytest.mark.parametrize("error", [error for error in all_errors() if error is not errors.Unexpected])
def test_errors_survive_a_pickle_with_their_next_step(error: type[PipelineError]) -> None:
    copy = pickle.loads(pickle.dumps(error("It broke.", "Fix it.")))
    assert (type(copy), copy.message, copy.next_step) == (error, "It broke.", "Fix it.")
    assert str(copy) == "It broke. Fix it."


def test_a_bug_survives_a_pickle_with_its_traceback() -> None:
    copy = pickle.loads(pickle.dumps(errors.Unexpected("It broke.", "Traceback ...")))
    assert (type(copy), copy.message, copy.details) == (errors.Unexpected, "It broke.", "Traceback ...")


def test_exit_codes_are_those_of_the_design() -> None:
    codes = {error.__name__: error.exit_code for error in all_errors()}
    assert codes == {
        "PipelineError": 1,
        "JobError": 1,
        "ImageError": 1,
        "DivergedError": 1,
        "PathError": 1,
        "Unexpected": 70,
        "UsageError": 2,
        "MachineError": 3,
        "WeightsError": 3,
        "DeviceError": 3,
        "DiskError": 3,
        "ScratchFull": 3,
        "LockedError": 5,
        "WorkerLost": 1,
        "DeadlineError": 4,
    }
    interrupted = pickle.loads(pickle.dumps(errors.Interrupted(2)))
    assert interrupted.exit_code == 130
    assert interrupted.next_step
