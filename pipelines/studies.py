"""A study of settings: optuna's trials in the home's own database, one process at a time, taken up where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from medml.errors import ConfigError
from medml.records.experiment import Knob, Tuning
from medml.training.search import encode

ERROR = "error"  # on trials that failed by themselves; those a killed process left are tried again
FOLDER = "folder"  # on trials taken up: where they were begun
STARTUP_TRIALS = 8
WARMUP_EPOCHS = 3

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """Trials of one experiment on one dataset.

    Parameters
    ----------
    database : Path
        SQLite file of all studies of a home.
    name : str
        The same name goes on with the same trials.
    space : mapping
        Knob by key of the plan.
    first : mapping
        Settings of the first trial.
    """

    def __init__(
        self, database: Path, name: str, space: Mapping[str, Knob], first: Mapping[str, Any], tuning: Tuning, seed: int
    ) -> None:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{database}", engine_kwargs={"connect_args": {"timeout": 60, "check_same_thread": False}}
        )
        self._study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
            pruner=_pruner(tuning),
        )
        self._space = {key: _distribution(knob) for key, knob in space.items()}
        self._asking, self._stopped = Lock(), Event()
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(dict(first))
        self._take_up()

    def next(self, wanted: int) -> optuna.Trial | None:
        """Return the next trial; None when ``wanted`` are done or under way."""
        with self._asking:
            if self._stopped.is_set() or len(self.counted()) >= wanted:
                return None
            return self._study.ask(self._space)

    def counted(self) -> list[FrozenTrial]:
        """Return the trials that count: done, given up early, failed by themselves, or under way."""
        counts = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return [t for t in self._study.get_trials(deepcopy=False) if t.state in counts or ERROR in t.user_attrs]

    def tell(self, trial: optuna.Trial, value: float | None, *, error: str = "") -> None:
        """Close a trial: with its value, or given up early where there is none, or failed."""
        if error:
            trial.set_user_attr(ERROR, error)
            self._study.tell(trial, state=TrialState.FAIL)
        elif value is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, value)

    def stop(self) -> None:
        """Ask for no more trials; those under way are taken up by the next process."""
        self._stopped.set()

    def stopping(self, seconds: float) -> bool:
        """Say whether it was stopped, at the latest ``seconds`` from now."""
        return self._stopped.wait(seconds)

    def best(self) -> FrozenTrial | None:
        """Return the best finished trial, the earlier of equals."""
        done = [trial for trial in self.counted() if trial.state == TrialState.COMPLETE]
        return max(done, key=lambda trial: (trial.value, -trial.number)) if done else None

    def _take_up(self) -> None:
        """Queue again what a killed process left under way; its checkpoint lies in the folder it had."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)
            self._study.enqueue_trial(trial.params, user_attrs={FOLDER: folder_of(trial)})


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a study for as long as it runs.

    Raises
    ------
    ConfigError
        If another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tune.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder.name}: another process is tuning it; wait for it, or give it more --workers"
            ) from None
        yield


def folder_of(trial: optuna.Trial | FrozenTrial) -> str:
    """Return the name of the folder in which a trial is trained."""
    return str(trial.user_attrs.get(FOLDER, f"trial-{trial.number}"))


def digest_of(*parts: Any) -> str:
    """Return 12 characters that name settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _distribution(knob: Knob) -> BaseDistribution:
    if knob.choices:
        return CategoricalDistribution([encode(choice) for choice in knob.choices])
    if knob.low is None or knob.high is None:
        raise ConfigError("a knob of tune.space has neither choices nor low and high")
    return FloatDistribution(knob.low, knob.high, log=knob.log)


def _pruner(tuning: Tuning) -> BasePruner:
    if tuning.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=WARMUP_EPOCHS)
    if tuning.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=WARMUP_EPOCHS)
    return optuna.pruners.NopPruner()
