"""What flow 3 judges and hands on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from minivess.contracts.record import Contract, Versioned
from minivess.contracts.training import VolumeMetrics


class Interval(Contract):
    """A mean with its confidence interval, or the range of what is too little for one."""

    mean: float | None
    lower: float | None
    upper: float | None
    level: float = Field(description="how often such bounds hold the truth")
    n: int = Field(description="values that are defined")
    n_undefined: int = Field(default=0, description="values left out: no distance to an empty mask")
    n_units: int = Field(default=0, description="independent pieces of evidence: groups or volumes")
    method: Literal["studentized", "percentile", "range", "noncentral t"] = "percentile"

    @property
    def called(self) -> str:
        """What the bounds are: `95 % CI`, or `range of 3` where 3 are too few for an interval."""
        ranged = self.method == "range"
        return f"range of {self.n_units}" if ranged else f"{100 * self.level:g} % CI"

    def negated(self) -> Interval:
        """The interval of the opposite quantity."""
        mean, lower, upper = (
            None if value is None else -value for value in (self.mean, self.upper, self.lower)
        )
        return self.replace(mean=mean, lower=lower, upper=upper)


class Scores(Contract):
    """One family or ensemble, judged on volumes that its members did not train on."""

    name: str
    members: tuple[str, ...] = Field(description="families that it combines")
    how: Literal["mean", "vote", "soup", "fold_soup", "greedy"] = "mean"
    by_fold: dict[int, tuple[str, ...]] = Field(
        default={}, description="members where each fold has a choice of its own"
    )
    run_id: str | None = Field(default=None, description="run that holds an ensemble's model")
    trainable_parameters: int
    intervals: dict[str, Interval]
    volumes: tuple[VolumeMetrics, ...]

    @property
    def combined(self) -> bool:
        """Whether it is an ensemble; a greedy one may have a single family."""
        return self.members != (self.name,)


class Comparison(Contract):
    """Two families or ensembles, paired over the volumes that both were judged on."""

    name: str
    against: str
    difference: Interval = Field(description="mean of `name` minus that of `against`")
    better: int = Field(description="volumes, or groups, on which `name` is better")
    worse: int
    p_value: float | None = Field(description="exact sign-flip test; None below two units")
    p_holm: float | None = Field(default=None, description="corrected for all pairs compared")
    effect: Interval | None = Field(description="mean over standard deviation of the differences")
    detectable: float | None = Field(
        description="smallest true difference that 8 of 10 such samples would tell from 0"
    )
    fold_spread: float | None = Field(description="standard deviation of the folds' differences")

    def turned(self) -> Comparison:
        """The same comparison from the other side."""
        return self.replace(
            name=self.against,
            against=self.name,
            difference=self.difference.negated(),
            better=self.worse,
            worse=self.better,
            effect=self.effect and self.effect.negated(),
        )

    @property
    def tied(self) -> bool:
        """Whether the difference may be 0; true if there is no interval."""
        lower, upper = self.difference.lower, self.difference.upper
        return lower is None or upper is None or lower <= 0 <= upper


class Selection(Contract):
    """The choice of the champion, made again on resampled volumes."""

    resamples: int
    expected: float | None = Field(
        description="mean of the chosen ones over volumes outside of their resample"
    )
    chosen: dict[str, float] = Field(description="share of the resamples in which it is chosen")
    first: dict[str, float] = Field(description="share in which its mean is the best")


class Reliability(Contract):
    """How often voxels of one class are what their probability says, over one region."""

    label: int = Field(description="label value of the class")
    region: Literal["everywhere", "near walls"]
    error: float = Field(description="expected calibration error")
    scaled_error: float = Field(description="after temperatures that were fitted on other parts")
    bins: tuple[tuple[float, float, float], ...] = Field(
        description="mean probability, share of the class, share of the voxels; no empty bins"
    )


LossName = Literal["missed_foreground", "false_foreground", "missed_centreline"]


class Risk(Contract):
    """A threshold of the foreground probability by conformal risk control."""

    loss: LossName = Field(description="of one volume, or the mean over a group's, 0 to 1")
    alpha: float = Field(description="what the expected loss of a new one may be")
    n: int
    unit: Literal["volume", "group"] = Field(description="what n counts and the bound holds for")
    smallest_alpha: float = Field(description="1 / (n + 1)")
    threshold: float | None = Field(
        description="foreground is at or above it; None if alpha is below the smallest"
    )
    bound: float | None = Field(description="(sum of the losses + 1) / (n + 1), at most alpha")
    splits: int = Field(description="random splits, a fifth of the units held out of the choice")
    simulated: float | None = Field(description="mean loss of units held out")
    within: float | None = Field(description="share of units held out whose loss is within alpha")
    others: dict[LossName, float] = Field(
        default={}, description="mean of the other losses of units held out"
    )

    @property
    def guarantee(self) -> str:
        """What the threshold promises, or why there is none."""
        loss, after = self.loss.replace("_", " "), f"{self.n} {self.unit}s out of fold"
        if self.threshold is None:
            return f"no threshold of {loss}: {after} give alpha {self.smallest_alpha:.3g} or more"
        return f"{loss} of a new {self.unit} is at most {self.alpha:g} on average ({after})"


class Uncertainty(Contract):
    """Calibration of one family or ensemble out of fold, and thresholds with a stated risk."""

    name: str
    volumes: int
    temperature: float = Field(description="logits are divided by it; fitted on all volumes")
    parts: tuple[float, ...] = Field(description="temperature of each part, fitted on the others")
    reliability: tuple[Reliability, ...]
    risks: tuple[Risk, ...]


FaultKind = Literal[
    "false break", "missed branch", "missed vessel", "false merge", "false branch", "false vessel"
]


class Fault(Contract):
    """A piece of centreline that only the ground truth has, or only the prediction."""

    case: str
    label: int = Field(description="label value of its class")
    kind: FaultKind = Field(
        description="by the ends at which it joins what both have: a break or merge two or more, a "
        "branch one, a vessel none"
    )
    voxel: tuple[int, int, int] = Field(description="in its middle")
    place: tuple[float, float, float] = Field(description="the same by the image's affine")
    length: float = Field(description="in the unit of the header, as the lumen")
    lumen: float = Field(description="mean diameter")
    unit: str


class Measured(Contract):
    """One measure of the vessels of one class and volume, in the ground truth and out of fold."""

    case: str
    group: str | None
    label: int = Field(description="label value of the class")
    measure: str
    truth: float | None = Field(description="in units of the header; None where it is undefined")
    predicted: float | None
    unit: str


class Agreement(Contract):
    """How far a segmentation moves one measure, over the volumes where both values exist."""

    label: int
    measure: str
    truth: float | None = Field(description="mean of the ground truth")
    bias: Interval = Field(description="mean of predicted minus ground truth")
    limits: tuple[tuple[float, float], tuple[float, float]] | None = Field(
        description="intervals of the lower and the upper limit of agreement; None of too few"
    )


class Champion(Contract):
    """The winning family and the sentence that says why."""

    family: str
    run_id: str = Field(description="its parent training run")
    metric: str
    value: float
    reason: str
    model_name: str | None = None
    model_version: str | None = None


class AnalysisResult(Versioned):
    """What flow 3 hands on."""

    run_id: str | None = None
    experiment: str
    dataset_hash: str
    training_run_ids: tuple[str, ...]
    families: tuple[Scores, ...]
    ensembles: tuple[Scores, ...]
    untrained: dict[str, float]
    champion: Champion
    test: tuple[Scores, ...] = Field(
        default=(),
        description="families and ensembles on the held-out test set, which chose nothing: "
        "each volume by each fold's network, its values averaged",
    )
    comparisons: tuple[Comparison, ...] = Field(
        default=(), description="every pair, in the metric that chose the champion"
    )
    selection: Selection | None = None
    seed_noise: float | None = Field(
        default=None, description="standard deviation of a difference that another seed makes"
    )
    baseline: Scores | None = Field(
        default=None, description="an intensity threshold, tuned on each fold's training volumes"
    )
    uncertainty: Uncertainty | None = Field(default=None, description="of the champion")
    faults: tuple[Fault, ...] = Field(
        default=(), description="of the champion out of fold, longest first"
    )
    short_faults: int = Field(
        default=0, description="pieces below evaluation.fault_length, which do not count"
    )
    measured: tuple[Measured, ...] = Field(
        default=(), description="vessels of the champion's masks out of fold"
    )
    agreement: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = Field(
        default=(), description="what was left out and why, a sentence each"
    )

    @property
    def winner(self) -> Scores:
        """The champion's scores out of fold."""
        judged = (*self.families, *self.ensembles)
        return next(one for one in judged if one.name == self.champion.family)

    def comparison(self, name: str, against: str) -> Comparison | None:
        """The comparison of two names, turned so that `name` stands first."""
        for one in self.comparisons:
            if (one.name, one.against) == (name, against):
                return one
            if (one.name, one.against) == (against, name):
                return one.turned()
        return None

    @property
    def winner_on_test(self) -> Scores | None:
        """The champion's scores on the held-out test set, if there is one."""
        return next((one for one in self.test if one.name == self.champion.family), None)
