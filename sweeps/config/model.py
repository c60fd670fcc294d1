"""Defines the sweep file as a frozen, strict object. Pure: reads no file and imports nothing heavy.

The classes here say what is allowed. `sweeps.config.load` reads files, applies overrides and collects every mistake.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from cluster import gpu_table
from search_spaces.space import PORTFOLIO
from sweeps.config import components, passwords, uris
from trainables.inputs import paths
from trainables.objective import EVAL_LOSS, LOWEST_LOSS, Objective
from trainables.specs import (
    LARGEST_NUMBER,
    AdapterSpec,
    DataSpec,
    Duration,
    EvaluationSpec,
    ModelSpec,
    QuantizationSpec,
    Spec,
    TrainingSpec,
    TrialSpec,
)

if TYPE_CHECKING:
    from sweeps.schedulers import SchedulerSettings as Scheduler
    from sweeps.searchers import SearcherSettings as Search
else:
    Scheduler = components.config_type("schedulers")
    Search = components.config_type("searchers")

Objectives = Annotated[
    Annotated[Objective, Tag("one")]
    | Annotated[tuple[Objective, ...], Field(strict=False, min_length=1), Tag("several")],
    Discriminator(lambda section: "several" if isinstance(section, list | tuple) else "one"),
]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Count = Annotated[int, Field(ge=1, le=LARGEST_NUMBER)]

LENGTHS = ("steps_per_trial", "examples_per_trial", "epochs_per_trial")
"""Keys of `budget` that give the length of a trial; a sweep file gives one of them."""
_UNIT_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_MOST_BYTES = 10**18
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|GB|TB)")


def size_bytes(size: str) -> int:
    """Returns the bytes of a size such as 500MB, 20GB or 1TB (powers of ten); raises ValueError for anything else."""
    match = _SIZE.fullmatch(size.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError("must be a size above 0 with its unit: 500MB, 20GB or 1TB")
    count = float(match[1]) * _UNIT_BYTES[match[2]]
    if count > _MOST_BYTES:
        raise ValueError("must be at most 1000000TB")
    return int(count)


def _is_size(value: object) -> object:
    size_bytes(str(value))
    return value


Size = Annotated[str, BeforeValidator(_is_size)]


def _is_gpu(value: object) -> object:
    name = gpu_table.named(str(value))
    if name is None:
        raise ValueError(f"must be one of {', '.join(gpu_table.GPUS)}; of another type give gpu_memory alone")
    return name


_UNREAD = "must not begin with $ (variables are not read), nor with ~NAME where this machine has no such user"

ELSEWHERE = "elsewhere"
"""Validation context of a sweep that runs on other machines, where ~NAME may be a user."""


def _is_unread(path: Path, context: object = None) -> bool:
    return paths.is_unread(path) and not (context == ELSEWHERE and str(path).startswith("~"))


def _is_storage(value: object, info: ValidationInfo) -> object:
    text = str(value)
    if uris.is_object_store(text) and (problem := uris.bucket_problem(text)) is not None:
        raise ValueError(problem)
    if "://" in text and not uris.is_object_store(text):
        raise ValueError(
            "must be a folder of this machine, local or mounted, or s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
        )
    if _is_unread(Path(text), info.context):
        raise ValueError(f"{_UNREAD}: write the path, or ~/DIR for one in the home folder")
    return value


def _is_ray_address(value: object) -> object:
    if "://" in str(value):
        raise ValueError(
            "must be local, auto or HOST:PORT of a cluster's head service (port 6379 as a rule): http:// is its "
            "dashboard, and ray:// is another protocol; from a machine outside the cluster use qsweep submit"
        )
    return value


def _is_public(name: object) -> object:
    if passwords.is_secret_name(str(name)):
        raise ValueError(
            "looks like the name of a secret, and Ray writes these variables into its logs: set it where Ray is "
            "started on the nodes"
        )
    return name


class Budget(Spec):
    """Limits of the sweep."""

    trials: Count | Literal["auto"] = 16
    """Points to try, including the default configuration. Equal points run once. Infeasible points are replaced, up to
    this many of them, or 10 if that is more. auto: as many points as fill wall_clock or gpu_hours at known rates."""
    steps_per_trial: Count = 81
    """Optimizer steps of a trial that is not stopped early. If trials are compared after equal examples, these are the
    steps of the default configuration."""
    wall_clock: Duration | None = None
    """Time after which the sweep ends in order: 90s, 30m, 2h, 1d."""
    examples_per_trial: Count | None = None
    """Rows that a trial trains on, in place of steps_per_trial. If the space searches the batch size, trials are always
    compared after equal examples; the default then follows from steps_per_trial."""
    epochs_per_trial: Annotated[float, Field(gt=0, le=LARGEST_NUMBER)] | None = None
    """Number of times that a trial sees all rows to train on, in place of steps_per_trial."""
    gpu_hours: Annotated[float, Field(gt=0, le=LARGEST_NUMBER)] | None = None
    """GPUs times hours after which the sweep ends in order. A sweep on a CPU uses none."""
    target: float | None = None
    """Value of the objective's metric that ends the sweep when a trial reaches it."""
    patience: Count | None = None
    """Trials in a row without a gain after which no other trial begins; the sweep ends when all begun trials are over.
    A trial is a gain if its first report beats those of all trials before, beyond chance on the evaluation rows."""
    disk: Size | None = None
    """Disk space for the sweep's checkpoints, such as 20GB. Snapshots are deleted to make room for adapters; if there
    are none left, the sweep ends."""

    @property
    def count(self) -> int:
        """Returns `trials` as a number; raises ValueError for auto, which the plan replaces before a sweep starts."""
        if self.trials == "auto":
            raise ValueError("budget.trials is auto: how many that is was not settled")
        return self.trials


class RuntimeEnv(Spec):
    """Environment variables and packages of the host processes."""

    env_vars: dict[Annotated[str, BeforeValidator(_is_public)], str] = Field(default_factory=dict)
    """Environment variables. Ray writes them into its logs, so they must not hold a secret."""
    pip: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Packages that Ray installs when the hosts start, such as "einops==0.8". This takes minutes on each node; an image
    that has the packages is better."""


class ClusterConfig(Spec):
    """Ray cluster, hosts and GPUs of the sweep."""

    profile: str = "local"
    """A profile of cluster/profiles, or the path of a YAML file. Keys given here override the profile."""
    address: Annotated[str, BeforeValidator(_is_ray_address)] | None = None
    """Ray cluster. local: the sweep starts its own Ray on this machine. auto: the Ray that runs on this node. Or the
    cluster's address."""
    hosts: Count | Literal["auto"] = "auto"
    """Maximum number of processes that hold the base model. auto: one per GPU, also on nodes that join later, or one on
    the CPU."""
    gpus_per_host: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = "auto"
    """GPUs of a host. auto: one if the cluster has GPUs when the sweep starts, else none. 1: hosts wait for GPUs that
    join later. 0: hosts train on CPUs. 2 or more: each host spreads one base over this many GPUs of a machine, for a
    base that does not fit on one GPU; the host computes on one of its GPUs at a time."""
    slots_per_host: Count | Literal["auto"] = "auto"
    """Trials that train at once on a host. auto: as many as fit into memory and keep the device busy. Each host gets at
    most its share of budget.trials, or of a third of budget.trials under a scheduler that stops trials (asha with
    variant stop, median). If nodes join later, the first hosts shrink to their new share as trials end or park."""
    gpu: Annotated[str, BeforeValidator(_is_gpu)] | None = None
    """Type of the GPUs, such as H100 or "A100 80GB". `plan` then estimates slots, time and GPU-hours for GPUs that this
    machine does not have. Time and GPU-hours follow from rates of earlier sweeps on such GPUs, else from arithmetic.
    The memory is that of the type; if the type has several sizes, the smallest. As an override, the type replaces a
    gpu_memory that it cannot have."""
    gpu_memory: Size | None = None
    """Memory of one GPU, such as 24GB. `plan` then counts slots for GPUs that this machine does not have. A sweep that
    runs on this machine (profile local) uses the machine's own device instead."""
    runtime_env: RuntimeEnv = RuntimeEnv()

    @property
    def has_own_ray(self) -> bool:
        """Tells whether the sweep starts its own Ray on this machine."""
        return (self.address or "local") == "local"

    @property
    def spread(self) -> int:
        """Returns the GPUs over which a host with GPUs spreads its base: 1 or more."""
        return 1 if self.gpus_per_host == "auto" else max(1, self.gpus_per_host)


NOT_AN_ADDRESS = (
    "is not a web address: in a user name or password write / as %2F, ? as %3F, # as %23, @ as %40 and a blank as %20"
)


def is_tracking_uri(value: object, context: object = None) -> object:
    """Returns the value if it is the URI of an MLflow store; raises ValueError else. `context` may be `ELSEWHERE`."""
    uri = str(value)
    if uris.is_web(uri) and not _is_address(uri):
        raise ValueError(NOT_AN_ADDRESS)
    file = uris.sqlite_file(uri)
    if file is not None and _is_unread(file, context):
        raise ValueError(f"{_UNREAD}: write sqlite:///~/FILE for the home folder")
    if uris.is_web(uri) or uri.startswith(("sqlite:///", "postgresql", "mysql", "mssql", "databricks")):
        return value
    raise ValueError(
        "must be a database or a server: sqlite:///mlflow.db, http://HOST:5000, postgresql://... (MLflow 3 no longer "
        "writes plain folders)"
    )


def _is_address(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0 and " " not in parts.netloc
    except ValueError:
        return False


def _is_store(value: object, info: ValidationInfo) -> object:
    return is_tracking_uri(value, info.context)


class Tracking(Spec):
    """The MLflow server or database."""

    uri: Annotated[str, BeforeValidator(_is_store)] = "sqlite:///mlflow.db"
    """An MLflow tracking URI; sqlite paths are relative to the current folder. *** stands for a password: the whole
    address is then in the variable MLFLOW_TRACKING_URI."""
    experiment: str | None = None
    """Name of the MLflow experiment; the sweep's name when left out."""


class Guard(Spec):
    """A value, beside the deciding metric, that the winner must not worsen: another task, general text, a metric."""

    data: Annotated[str, Field(min_length=1)] | None = None
    """A file of rows with the columns of data.train. Left out: the rows on which promotion decides."""
    metric: Annotated[str, Field(min_length=1)] = EVAL_LOSS
    """A metric with a value per row."""
    worse_by: Annotated[float, Field(gt=0)]
    """How much worse than the base and the champion the winner may be at most, in the metric's unit."""


class Slices(Spec):
    """Parts of the rows on which promotion decides, one for each value of a column. Promotion names the worst part."""

    by: Annotated[str, Field(min_length=1)]
    """The column, such as language, with at most 100 values."""
    worse_by: Annotated[float, Field(gt=0)] | None = None
    """How much worse than the base and the champion the winner may be at most on each part. Left out: no limit."""


class Promotion(Spec):
    """Settings of `qsweep promote`, which the command's own options override."""

    model: Name | None = None
    """Name of the registered model; `launch --promote` needs it."""
    top: Count = 3
    """Number of candidates, best by `metric`, that are evaluated again."""
    alias: Name = "champion"
    """Alias that moves to the winner."""
    min_gain: Annotated[float, Field(ge=0)] = 0.0
    """Least gain over the base and over the champion, in the metric's unit: nats per completion token for eval_loss,
    0.01 for one answer in a hundred."""
    metric: Annotated[str, Field(min_length=1)] | None = None
    """Metric that ranks the candidates and decides; it must have a value per row. Left out: the sweep's objective."""
    guards: Annotated[tuple[Guard, ...], Field(strict=False)] = ()
    """Values that the winner must not worsen."""
    slices: Slices | None = None


def _words(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


def _is_variable(name: object) -> object:
    if isinstance(name, str) and not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError(
            "must be the name of an environment variable that holds the URL, such as SWEEP_HOOK: the URL is a secret "
            "and stays out of the file"
        )
    return name


class Notify(Spec):
    """Notifications of the sweep: a webhook gets JSON by POST, or a command gets JSON on stdin."""

    url_env: Annotated[str, BeforeValidator(_is_variable)] | None = None
    """Name of the environment variable that holds the webhook's URL. The URL is a secret and stays out of the file."""
    command: Annotated[tuple[str, ...], BeforeValidator(_words), Field(strict=False, min_length=1)] | None = None
    """A program with its arguments, in place of url_env: a list, or text that is split as a shell would. No shell runs
    the program."""
    events: Annotated[tuple[Literal["end", "failure", "best"], ...], Field(strict=False, min_length=1)] = (
        "end",
        "failure",
    )
    """Events to notify of. end: an end without a failure. failure: an end without a best trial, with a trial that
    FAILED, or with a missing score. best: each new best value."""

    @model_validator(mode="after")
    def _one_way(self) -> Notify:
        if (self.url_env is None) == (self.command is None):
            raise ValueError("give one of url_env (an environment variable with a webhook's URL) and command")
        return self


class RefitOf(Spec):
    """The trial that a refit trains anew. `qsweep refit` writes this section."""

    sweep: str
    """Id of the trial's sweep."""
    trial: str
    """Name of the trial there, such as t03."""
    trial_key: str
    """Key of the trial there."""


class SweepConfig(Spec):
    """A whole sweep."""

    name: Name
    """Name of the sweep and its folder: letters, digits, dot, dash and underscore."""
    trainable: str = "qlora"
    """A trainable of trainables/, or your own: PACKAGE.MODULE, FILE.py, MODULE:CLASS or FILE.py:CLASS."""
    model: ModelSpec | None = None
    quantization: QuantizationSpec = QuantizationSpec()
    adapter: AdapterSpec = AdapterSpec()
    data: DataSpec | None = None
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    search_space: str | dict[str, Any] = "lora_core"
    """A space of search_spaces/, or a mapping from fields of adapter, training and quantization to domains. Its key
    `portfolio` lists points to try first."""
    objective: Objectives = LOWEST_LOSS
    """One metric with its mode, or a list of several. The first one chooses the best step and stops trials early (see
    `scheduler.metric`). With several metrics the result is their Pareto set: the trials that no other trial beats in
    one metric while it is as good in the others."""
    budget: Budget = Budget()
    scheduler: Scheduler = Field(default_factory=lambda: components.default("schedulers"))
    searcher: Search = Field(default_factory=lambda: components.default("searchers"))
    cluster: ClusterConfig = ClusterConfig()
    tracking: Tracking = Tracking()
    promotion: Promotion = Promotion()
    notify: Notify | None = None
    refit_of: RefitOf | None = None
    storage: Annotated[str, BeforeValidator(_is_storage)] = Field("results", min_length=1)
    """Folder for the sweep's own folder, local or mounted; relative to the current folder. Or an address on an object
    store, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX: the sweep's folder is then results/NAME on this machine, and is
    mirrored to the object store."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Seed of the searcher. Each trial's own seed follows from this seed and the trial's point."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Returns all objectives, the first one first; of several, no single one decides which trial is better."""
        return self.objective if isinstance(self.objective, tuple) else (self.objective,)

    @property
    def stops(self) -> Objective:
        """Returns the objective by which the scheduler compares trials."""
        return LOWEST_LOSS if self.scheduler.metric == EVAL_LOSS else self.objectives[0]

    @property
    def base(self) -> TrialSpec:
        """Returns the default configuration: the values of the file itself, without a point of the space."""
        return TrialSpec(
            trainable=self.trainable,
            model=self.model,
            quantization=self.quantization,
            adapter=self.adapter,
            data=self.data,
            training=self.training,
            evaluation=self.evaluation,
            steps=self.budget.steps_per_trial,
        )

    @property
    def searched(self) -> tuple[str, ...]:
        """Returns the searched fields; empty while `search_space` is a name."""
        space = self.search_space
        return tuple(field for field in space if field != PORTFOLIO) if isinstance(space, dict) else ()

    @property
    def experiment(self) -> str:
        """Returns the name of the MLflow experiment."""
        return self.tracking.experiment or self.name
