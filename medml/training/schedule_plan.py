"""Rules of the plan about how long training takes: minutes, epochs, patience, warm-up."""

from __future__ import annotations

from medml.records.experiment import Experiment
from medml.training.draft import Draft

VALIDATE_EVERY = {"cpu": 50, "cuda": 250}


def set_budget(draft: Draft, experiment: Experiment) -> None:
    """Set the minutes."""
    draft.set("minutes", experiment.budget.minutes, "the experiment's budget; the learning rate reaches zero with it")


def set_epochs(draft: Draft, experiment: Experiment, *, steps: int, per_epoch: int) -> None:
    """Set how many steps make an epoch, how many epochs there are and when training gives up."""
    del draft["steps_per_epoch"]
    wanted = experiment.budget.steps
    if wanted is not None:
        steps, per_epoch = wanted, -(-wanted // max(1, round(wanted / per_epoch)))
    draft.set("steps_per_epoch", per_epoch, "validation then costs little and still comes often")
    if experiment.budget.epochs is not None:
        draft.set("epochs", experiment.budget.epochs, "the experiment's budget")
    elif wanted is not None:
        draft.set("epochs", -(-wanted // draft["steps_per_epoch"]), f"the experiment's budget of {wanted} steps")
    else:
        draft.set(
            "epochs", max(1, -(-steps // draft["steps_per_epoch"])), f"about {steps} steps are enough for such data"
        )
    draft.set("patience", max(20, draft["epochs"] // 3), "validation is noisy, so one third of the epochs")
    draft.set("warmup_steps", min(100, max(1, steps // 20)), "the first steps are the least stable")
