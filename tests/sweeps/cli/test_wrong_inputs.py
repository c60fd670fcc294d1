"""What people get wrong, and what each of it prints: field, value, rule and way out, exit code 2, nothing started.

One row per mistake, through the real command line.
"""

# The table has one mistake per line.
# ruff: noqa: E501

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mistakes import Row, change, check, qlora, run, toy
from sweep_files import QLORA, TOY, write_rows

BRACES = "must be text: braces need quotes in YAML"
FORMS = "a row reads as prompt and completion, as messages, or as text"

ROWS: list[Row] = [
    # Keys
    toy("key misspelt", "sead: 1", "sead: unknown key; did you mean seed? (keys here: name, trainable, model"),
    toy("key unlike any", "zzz: 3", "zzz: unknown key (keys here: name, trainable, model"),
    toy("key of another section", "trials: 4", "trials: unknown key; did you mean budget.trials?"),
    toy("key of another section, by another name", "lr: 1e-4", "lr: unknown key; did you mean training.learning_rate?"),
    toy("length of training by another name", "epochs: 3", "epochs: unknown key; did you mean budget.epochs_per_trial?"),
    toy("length of training where others have it", "training: {num_train_epochs: 3}", "training.num_train_epochs: unknown key; did you mean budget.epochs_per_trial?"),
    toy("length of training in its section", "budget: {epochs: 3}", "budget.epochs: unknown key; did you mean budget.epochs_per_trial?"),
    toy("key of another section, like one here", "batch_size: 4", "batch_size: unknown key; did you mean training.batch_size?"),
    toy("key of the scheduler outside", "grace_steps: 4", "grace_steps: unknown key; did you mean scheduler.grace_steps?"),
    toy("key in a section", "training: {batchsize: 4}", "training.batchsize: unknown key; did you mean training.batch_size?"),
    toy("key in a section, by another name", "adapter: {rank: 8}", "adapter.rank: unknown key; did you mean adapter.r? (keys here: r, alpha"),
    toy("key that is a number", "1: 4", "1: 1 must be text, as all keys are"),
    # Kinds of value
    toy("text for a number", "adapter: {r: '8'}", "adapter.r: '8' must be a whole number: write 8 without quotes"),
    toy("fraction for a whole number", "budget: {trials: 4.5}", "budget.trials: 4.5 must be a whole number"),
    toy("flag for a number", "training: {batch_size: true}", "training.batch_size: true must be a whole number"),
    toy("text for a fraction", "training: {learning_rate: '2e-4'}", "training.learning_rate: '2e-4' must be a number: write 2e-4 without quotes"),
    toy("nothing for a number", "training: {learning_rate: }", "training.learning_rate: null must be a number"),
    toy("number for a flag", "adapter: {use_rslora: 1}", "adapter.use_rslora: 1 must be true or false"),
    toy("a start that changes the base", "adapter: {init: pissa_niter_4}", "adapter.init: 'pissa_niter_4' changes the weights of the base, which trials share: take default, gaussian or orthogonal"),
    toy("an odd rank for an orthogonal start", "adapter: {init: orthogonal, r: 5}", "init: orthogonal needs an even r, and r is 5"),
    toy("number for text", "storage: 5", "storage: 5 must be text"),
    toy("list for a section", "adapter: [8]", "adapter: [8] must be a mapping of keys to values"),
    toy("nothing for a section", "budget:", "budget: null must be a mapping of keys to values"),
    toy("number for a list", "adapter: {target_modules: 4}", "adapter.target_modules: 4 must be text or a list"),
    toy("number in a list", "adapter: {target_modules: [q, 4]}", "adapter.target_modules.1: 4 must be text", "adapter.target_modules: ['q', 4] must be text"),
    toy("word for auto or a number", "cluster: {hosts: many}", "cluster.hosts: 'many' must be a whole number or 'auto'"),
    toy("word for auto or a flag", "training: {gradient_checkpointing: maybe}", "training.gradient_checkpointing: 'maybe' must be 'auto' or true or false"),
    toy("text for auto or a number", "cluster: {hosts: '4'}", "cluster.hosts: '4' must be a whole number or 'auto': write 4 without quotes"),
    toy("word for steps or a duration", "training: {snapshot_every: often}", "training.snapshot_every: 'often' must be a whole number or a duration above 0 with its unit"),
    # Ranges
    toy("rank 0", "adapter: {r: 0}", "adapter.r: 0 must be greater than 0"),
    toy("dropout 1", "adapter: {lora_dropout: 1.0}", "adapter.lora_dropout: 1.0 must be less than 1.0"),
    toy("below the least", "budget: {trials: 0}", "budget.trials: 0 must be at least 1"),
    toy("negative seed", "seed: -1", "seed: -1 must be at least 0"),
    toy("infinite", "training: {weight_decay: .inf}", "training.weight_decay: inf must be a finite number"),
    toy("empty list", "adapter: {target_modules: []}", "adapter.target_modules: [] must be text or must not be empty"),
    toy("empty text", "storage: ''", "storage: '' must not be empty"),
    toy("unknown word", "quantization: {scheme: nf8}", "quantization.scheme: 'nf8' must be 'nf4', 'fp4' or 'none'; did you mean nf4?"),
    toy("only one word", "objective: {metric: accuracy}", "objective.metric: unknown metric 'accuracy'; did you mean eval_accuracy? (there are: eval_loss, eval_accuracy)"),
    toy("wrong key of an objective", "objective: {metrik: eval_loss}", "objective.metrik: unknown key; did you mean objective.metric? (keys here: metric, mode)"),
    toy("word for an objective", "objective: eval_loss", "objective: 'eval_loss' must be a mapping of keys to values: write {metric: 'eval_loss'}"),
    toy("wrong key in a list of objectives", "objective: [{metric: eval_loss}, {metrik: tokens}]", "objective.1.metrik: unknown key; did you mean objective.1.metric? (keys here: metric, mode)"),
    toy("no objective", "objective: []", "objective: [] must not be empty"),
    toy("a cost alone", "objective: {metric: trainable_params}", "objective.metric: unknown metric 'trainable_params' (there are: eval_loss, eval_accuracy); it may be a second objective, in a list"),
    toy("a cost first", "objective: [{metric: trainable_params}, {metric: eval_loss}]", "objective.0.metric: unknown metric 'trainable_params'"),
    toy("unknown second metric", "objective: [{metric: eval_loss}, {metric: params}]", "objective.1.metric: unknown metric 'params'; did you mean trainable_params? (there are: eval_loss, eval_accuracy, trainable_params)"),
    toy("an objective twice", "objective: [{metric: eval_loss}, {metric: eval_loss}]", "objective.1.metric: eval_loss is an objective already: name another, or leave this one out"),
    toy("unknown metric of a promotion", "promotion: {metric: acuracy}", "promotion.metric: unknown metric 'acuracy'; did you mean eval_accuracy? (there are: eval_loss, eval_accuracy)"),
    toy("the other direction", "objective: {mode: max}", "objective.mode: max: a lower eval_loss is better: write mode: min"),
    toy("not its direction", "objective: {metric: eval_accuracy}", "objective.mode: min: a higher eval_accuracy is better: write mode: max"),
    Row("name with a slash", "name: a/b\ntrainable: toy\n", ["name: 'a/b' must hold only letters, digits, dot, dash and underscore"]),
    toy("duration without a unit", "budget: {wall_clock: 90}", "budget.wall_clock: 90 must be a duration above 0 with its unit: 90s, 30m, 2h or 1d"),
    toy("duration in words", "budget: {wall_clock: 2 hours}", "budget.wall_clock: '2 hours' must be a duration"),
    toy("size in another unit", "cluster: {gpu_memory: 24GiB}", "cluster.gpu_memory: '24GiB' must be a size above 0 with its unit: 500MB, 20GB or 1TB"),
    toy("alpha twice", "adapter: {lora_alpha: 8, alpha_over_r: 2}", "adapter: lora_alpha and alpha_over_r say the same thing twice: keep one of them"),
    # Sections
    Row("no name", "trainable: toy\n", ["name: is required"]),
    Row("no model, no data", "name: x\n", ["data: is required by the trainable qlora", "model: is required by the trainable qlora"]),
    Row("no model, no data, no name", "{}", ["name: is required", "data: is required by", "model: is required by"]),
    qlora("no source", "{source: hub/model}", "{revision: main}", "model.source: is required"),
    toy("half of the facts", "model: {source: a/b, facts: {parameters: 5, layers: 1, hidden_size: 4, intermediate_size: 4, vocab_size: 9}}", "model.facts.attention_heads: is required", "model.facts.key_value_heads: is required"),
    toy("unknown trainable", "", "trainable: no trainable 'toyy'; did you mean toy? (there are: qlora, toy; one of your own is named PACKAGE.MODULE, MODULE:CLASS or FILE.py:CLASS)", changes=["trainable=toyy"]),
    toy("no module", "", "trainable: no module 'nowhere' to import the trainable 'nowhere.mine' from", changes=["trainable=nowhere.mine"]),
    toy("module without a trainable", "", "trainable: json.decoder is not a trainable: it lacks REQUIRES, check,", changes=["trainable=json.decoder"]),
    toy("number for the trainable", "", "trainable: 5 must be text", changes=["trainable=5"]),
    # Scheduler, searcher, profile, tracking
    toy("unknown scheduler", "scheduler: {kind: ashaa}", "scheduler: unknown kind 'ashaa'; did you mean asha? (there are: asha, fifo, median)"),
    toy("scheduler by name only", "scheduler: asha", "scheduler: 'asha' must be a mapping of keys to values: write {kind: 'asha'}"),
    toy("grace beyond the end", "budget: {steps_per_trial: 27}\nscheduler: {kind: asha, grace_steps: 28}", "scheduler.grace_steps: 28 is above the 27 steps of a trial, so that none could be stopped early: lower grace_steps, or make trials longer in budget"),
    toy("grace beyond the examples", "budget: {examples_per_trial: 100}\nscheduler: {kind: asha, grace_steps: 26}", "scheduler.grace_steps: 26 is above the 25 steps of a trial"),
    toy("unknown searcher by name only", "searcher: bayes", "searcher: 'bayes' must be a mapping of keys to values: write {kind: NAME} (there are: grid, prior, random, tpe"),
    toy("scheduler misspelt, by name only", "scheduler: ashaa", "scheduler: 'ashaa' must be a mapping of keys to values: write {kind: NAME}; did you mean asha? (there are: asha, fifo, median)"),
    toy("word for the quantization", "quantization: nf4", "quantization: 'nf4' must be a mapping of keys to values: write {scheme: 'nf4'}"),
    toy("list for a kind", "scheduler: {kind: [asha]}", "scheduler: unknown kind \"['asha']\"; did you mean asha?"),
    toy("key that no scheduler has", "scheduler: {kind: fifo, brackets: 4}", "scheduler.brackets: unknown key", changes=[]),
    toy("key of another scheduler", "scheduler: {kind: fifo, variant: stop}", "scheduler.variant: 'stop' is for kind asha, not fifo: leave it out, or set scheduler.kind=asha"),
    toy("key misspelt in the scheduler", "scheduler: {grace_step: 4}", "scheduler.grace_step: unknown key; did you mean scheduler.grace_steps?"),
    toy("unknown searcher", "searcher: {kind: bayes}", "searcher: unknown kind 'bayes' (there are: grid, prior, random, tpe"),
    toy("key that the searcher does not have", "searcher: {kind: random, trials: 4}", "searcher.trials: unknown key; did you mean budget.trials? (keys here: kind, points, repeats, start_with_default, warm_start)"),
    toy("explicit points that are no list", "searcher: {points: {adapter.r: 8}}", "searcher.points: must be a list: write [{'adapter.r': 8}]"),
    toy("explicit point at a field by another name", "searcher: {points: [{rank: 8}]}", "searcher.points.0: rank: is not searched; did you mean adapter.r? (searched: adapter.r, "),
    toy("explicit point at a field that is not searched", "searcher: {points: [{training.batch_size: 8}]}", "searcher.points.0: training.batch_size: is not searched; did you mean training.learning_rate? (searched: adapter.r, "),
    toy("explicit point with a list for a number", "searcher: {points: [{adapter.r: [8]}]}", "searcher.points.0: adapter.r: [8] must be a whole number"),
    toy("explicit point with a value that no trial takes", "searcher: {points: [{adapter.r: 8}, {adapter.r: 0}]}", "searcher.points.1: adapter.r: 0 must be"),
    toy("prior searcher without a prior", "search_space: {adapter.r: {choice: [4, 8]}}\nsearcher: {kind: prior}", "searcher.kind: prior begins with what the search space expects, and this one has no prior: add one"),
    toy("unknown field in the portfolio", "search_space: {adapter.r: {choice: [4, 8]}, portfolio: [{adapter.rr: 8}]}", "search_space.portfolio: adapter.rr: is not searched; did you mean adapter.r? (searched: adapter.r)"),
    toy("value outside in the portfolio", "search_space: {adapter.r: {choice: [4, 8]}, portfolio: [{adapter.r: 6}]}", "search_space.portfolio: adapter.r: 6 is not a value of {choice: [4, 8]}: write one of its values, or move the point to searcher.points"),
    toy("value outside a range in the portfolio", "search_space: {training.learning_rate: {loguniform: [1.0e-5, 1.0e-3]}, portfolio: [{training.learning_rate: 0.1}]}", "search_space.portfolio: training.learning_rate: 0.1 is not a value of {loguniform: [1e-05, 0.001]}: write one of its values, or move the point to searcher.points"),
    toy("portfolio that needs a value of the file", "search_space: {adapter.r: {choice: [4, 8]}, training.batch_size: {choice: [32, 64]}, portfolio: [{adapter.r: 8}]}\nsearcher: {kind: prior}", "search_space.portfolio: training.batch_size: a point leaves it out, and the file's own 4 is not a value of {choice: [32, 64]}: write one of its values in the point"),
    toy("portfolio with fields that exclude each other", "search_space: {adapter.use_rslora: {choice: [false, true]}, adapter.alpha_over_r: {choice: [1, 2], when: {adapter.use_rslora: false}}, portfolio: [{adapter.use_rslora: true, adapter.alpha_over_r: 2}]}", "search_space.portfolio: adapter.alpha_over_r: is not searched together with the point's other values: remove it"),
    toy("named space whose portfolio and priors are changed away", "searcher: {kind: prior}", "searcher.kind: prior begins with what the search space expects, and this one has no prior", changes=["search_space=lora_core", "search_space.adapter.r={choice: [4]}", "search_space.adapter.lora_alpha={choice: [3]}", "search_space.adapter.target_modules={choice: [attention]}", "search_space.training.learning_rate={choice: [1.0e-6]}"]),
    toy("grid over a continuous range", "searcher: {kind: grid}", "search_space.training.learning_rate: a continuous domain has no grid; list its values: {choice: [...]}, or use searcher.kind=random"),
    toy("store at the home of nobody", "tracking: {uri: sqlite:///~nobodyx/x.db}", "tracking.uri: 'sqlite:///~nobodyx/x.db' must not begin with $ (variables are not read), nor with ~NAME where this machine has no such user"),
    toy("store in a variable", "tracking: {uri: sqlite:///$HOME/x.db}", "tracking.uri: 'sqlite:///$HOME/x.db' must not begin with $ (variables are not read), nor with ~NAME where this machine has no such user: write sqlite:///~/FILE"),
    toy("unknown profile", "cluster: {profile: locl}", "cluster.profile: unknown profile 'locl'; did you mean local? (there are: attached, local)"),
    toy("no such profile file", "cluster: {profile: mine.yaml}", "mine.yaml' (there are: attached, local)"),
    toy("profile that is no mapping", "cluster: {profile: list.yaml}", "list.yaml: a sweep file is a mapping"),
    toy("storage on an unknown store", "storage: az://bucket/sweeps", "storage: 'az://bucket/sweeps' must be a folder of this machine, local or mounted, or s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
    toy("storage in a variable", "storage: $HOME/results", "storage: '$HOME/results' must not begin with $ (variables are not read), nor with ~NAME where this machine has no such user: write the path, or ~/DIR for one in the home folder"),
    toy("storage at the home of nobody", "storage: ~nobodyx/results", "storage: '~nobodyx/results' must not begin with $"),
    toy("storage without a bucket", "storage: s3:///sweeps", "storage: 's3:///sweeps' must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
    toy("storage beside its bucket", "storage: s3://bucket/../other", "storage: 's3://bucket/../other' must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
    toy("storage with a password", "storage: s3://me:secret@bucket/x", "storage: holds a password, a token"),
    toy("storage that is a file", "storage: notes.txt", "notes.txt is a file; choose another: storage=DIR"),
    toy("storage below a file", "storage: notes.txt/results", "notes.txt is a file; choose another: storage=DIR"),
    toy("database below a file", "tracking: {uri: 'sqlite:///notes.txt/mlflow.db'}", "notes.txt is a file; choose another: tracking.uri=sqlite:///FILE"),
    toy("folder for tracking", "tracking: {uri: ./mlruns}", "tracking.uri: './mlruns' must be a database or a server: sqlite:///mlflow.db, http://HOST:5000,"),
    toy("file for tracking", "tracking: {uri: 'file:///mlruns'}", "tracking.uri: 'file:///mlruns' must be a database or a server"),
    toy("password in the parameters of a URI", "tracking: {uri: 'postgres://host/db?password=x'}", "tracking.uri: holds a password, a token or a parameter such as key=, and these come from the environment alone: write postgres://host/db?password=*** here, and the whole address into MLFLOW_TRACKING_URI"),
    toy("password in a URI without //", "tracking: {uri: 'http:/me:secret@host'}", "tracking.uri: holds a password"),
    toy("password in a list", "tracking: {uri: ['http://me:secret@host']}", "tracking.uri.0: holds a password"),
    toy("slash in the password of a server", "tracking: {uri: 'http://me:sec/ret@host'}", "tracking.uri: holds a password"),
    change("tracking.uri=http://", "tracking.uri: 'http://' is not a web address"),
    # Promotion
    toy("key misspelt in promotion", "promotion: {modle: x}", "promotion.modle: unknown key; did you mean promotion.model?"),
    toy("name of no model", "promotion: {model: a/b}", "promotion.model: 'a/b' must hold only letters, digits,"),
    toy("gain below zero", "promotion: {min_gain: -1}", "promotion.min_gain: -1 must be"),
    toy("no candidates", "promotion: {top: 0}", "promotion.top: 0 must be"),
    toy("alias that MLflow refuses", "promotion: {alias: prod.eu}", "promotion.alias: 'prod.eu': MLflow takes letters,"),
    toy("alias that MLflow keeps", "promotion: {alias: Latest}", "promotion.alias: 'Latest' is kept for other uses"),
    # The search space
    toy("unknown space", "search_space: lora_cor", "search_space: unknown space 'lora_cor', did you mean lora_core? there are lora_core, lora_or_qlora, lora_wide, toy"),
    toy("number for the space", "search_space: 4", "search_space: 4 must be text or a mapping of keys to values"),
    toy("list for the space", "search_space: [adapter.r]", "search_space: ['adapter.r'] must be text or a mapping"),
    toy("field misspelt", "search_space: {adapter.alhpa: {choice: [8]}}", "search_space.adapter.alhpa: unknown field 'adapter.alhpa'; did you mean"),
    toy("field unlike any that is searched", "search_space: {adapter.zzz: {choice: [8]}}", "quantization.scheme, quantization.double_quant, quantization.compute_dtype)"),
    toy("field without its section", "search_space: {learning_rate: {choice: [1e-4]}}", "search_space.learning_rate: unknown field 'learning_rate'; did you mean training.learning_rate?"),
    toy("field by another name", "search_space: {adapter.rank: {choice: [8]}}", "search_space.adapter.rank: unknown field 'adapter.rank'; did you mean adapter.r? (there are: adapter.r, adapter.alpha_over_r"),
    toy("field of the model", "search_space: {model.source: {choice: [a, b]}}", "search_space.model.source: all trials of a sweep share one model and one data set, so only adapter.*, training.* and quantization.scheme, quantization.double_quant, quantization.compute_dtype may be searched; run one sweep for each value, and qsweep compare tells them apart"),
    toy("scheme that is not known", "search_space: {quantization.scheme: {choice: [nf4, int8]}}", "search_space.quantization.scheme: 'int8' must be 'nf4', 'fp4' or 'none'"),
    toy("constants of no quantisation", "search_space: {quantization.scheme: {choice: [nf4, none]}, quantization.double_quant: {choice: [true, false]}}", "search_space.quantization.double_quant: says nothing where quantization.scheme is none: add when: {quantization.scheme: [nf4]}"),
    toy("field that only paces", "search_space: {training.step_seconds: {choice: [1]}}", "search_space.training.step_seconds: changes how fast a step is, not what it computes: there is nothing to search"),
    toy("value out of range", "search_space: {adapter.r: {choice: [0, 8]}}", "search_space.adapter.r: 0 must be greater than 0"),
    toy("end of a range out of range", "search_space: {adapter.lora_dropout: {uniform: [0, 1]}}", "search_space.adapter.lora_dropout: 1.0 must be less than 1.0"),
    toy("fractions of a whole number", "search_space: {adapter.r: {uniform: [4, 64]}}", "search_space.adapter.r: must be a whole number, and uniform draws fractions: write {randint: [low, high]}, or list the values in {choice: [...]}"),
    toy("unknown word in a domain", "search_space: {training.schedule: {choice: [linear, cosin]}}", "search_space.training.schedule: 'cosin' must be 'linear', 'cosine' or 'constant'; did you mean cosine?"),
    toy("low above high", "search_space: {training.learning_rate: {loguniform: [1e-3, 1e-5]}}", "search_space.training.learning_rate: loguniform: low 0.001 is above high 1e-05: swap them"),
    toy("condition on a value that no trial takes", "search_space: {adapter.r: {choice: [8], when: {training.schedule: bogus}}}", "search_space.adapter.r: when: training.schedule: 'bogus' must be"),
    toy("condition on an unknown field", "search_space: {adapter.r: {choice: [8], when: {adapter.rs: true}}}", "search_space.adapter.r: when: unknown field 'adapter.rs'; did you mean"),
    toy("scheduler that goes by a score", "scheduler: {metric: exact_match}", "scheduler.metric: 'exact_match' must be 'eval_loss', or left out: with evaluation.when: every it then goes by the objective, a score among them"),
    toy("guard with an unknown key", "promotion: {guards: [{worse_by: 0.1, margin: 0.1}]}", "promotion.guards.0.margin: unknown key; did you mean promotion.guards.0.metric? (keys here: data, metric, worse_by)"),
    toy("both alphas searched", "search_space: {adapter.alpha_over_r: {choice: [1]}, adapter.lora_alpha: {choice: [8]}}", "search_space.adapter.lora_alpha: says the same as adapter.alpha_over_r: search one of them"),
    Row("preset misspelt in the space", QLORA + "search_space: {adapter.target_modules: {choice: [mpl, mlp]}}", ["search_space.adapter.target_modules: 'mpl' is not a preset; did you mean mlp? The presets are attention-qv, attention, mlp, all-linear"]),
    Row("preset misspelt", QLORA + "adapter: {target_modules: atention}", ["adapter.target_modules: 'atention' is not a preset; did you mean attention?"]),
    # Overrides
    change("=4", "=4: an override is key=value"),
    change("budget.trials=[1", "budget.trials: '[1' is not a YAML value; quote it for the shell, for example 'budget.trials={choice: [8]}'"),
    change("budget.trails=4", "budget.trails: unknown key; did you mean budget.trials? (keys here: trials, steps_per_trial, wall_clock"),
    change("budget.trials=many", "budget.trials: 'many' must be a whole number"),
    change("scheduler.kind=ashaa", "scheduler: unknown kind 'ashaa'; did you mean asha?"),
    change("search_space.adapter.r={choice: [0]}", "search_space.adapter.r: 0 must be greater than 0"),
    change("search_space.adapter.rank={choice: [8]}", "search_space.adapter.rank: unknown field"),
    # YAML
    Row("syntax", "name: x\nbudget: {trials: 4\n", ["s.yaml: not valid YAML: line 3, column 1: expected ',' or '}', but got '<stream end>'"]),
    Row("escape in double quotes", 'name: "\\w"\n', ["s.yaml: not valid YAML: line 1, column 9: found unknown escape character 'w': \\ begins an escape in double quotes: take single quotes"]),
    Row("two colons", "name: x: y\n", ["s.yaml: not valid YAML: line 1, column 8: mapping values are not allowed here"]),
    Row("key twice", "name: x\ntrainable: toy\nname: y\n", ["s.yaml: not valid YAML: line 3, column 1: the key 'name' stands twice"]),
    Row("empty file", "", ["s.yaml: a sweep file is a mapping that begins with, for example, name: my-sweep"]),
    Row("list", "- name: x\n", ["s.yaml: a sweep file is a mapping"]),
    # Data
    qlora("file missing", "rows.jsonl", "rowz.jsonl", "rowz.jsonl does not exist; did you mean rows.jsonl"),
    qlora("another kind of file", "rows.jsonl", "notes.txt", "data.train: notes.txt is not a kind of file that is read here: a file ends in .jsonl, .json, .csv, .parquet"),
    qlora("neither file nor data set", "rows.jsonl", "rows", "data.train: rows is neither a file nor a hub data set"),
    qlora("empty text for a file", "rows.jsonl", "''", "data.train: '' must not be empty"),
    qlora("empty data", "rows.jsonl", "empty.jsonl", "empty.jsonl has no rows"),
    qlora("column misspelt", "{question}", "{qestion}", "data.prompt: {qestion} is not a column of "),
    qlora("column is not there", "{answer}", "{reply}", "data.completion: {reply} is not a column of "),
    qlora("template without quotes", '"{question}"', "{question}", f"data.prompt: {BRACES}"),
    qlora("template in two braces", '"{question}"', "{{question}}", "s.yaml: not valid YAML: line 3, column 36: a key is text: braces need quotes"),
    qlora("secret in a prompt", '"{question}"', '"see http://host/a?key=1 {question}"', "data.prompt: holds a password, a token or a parameter such as key="),
    qlora("secret in a system message", "eval_examples", 'system: "ask http://me:word@host/", eval_examples', "data.system: holds a password, a token"),
    qlora("no form", ', prompt: "{question}", completion: "{answer}"', "", f"data: {FORMS}: none of them given"),
    qlora("two forms", "eval_examples", 'text: "{answer}", eval_examples', f"data: {FORMS}: prompt, completion and text given; keep one of these three, and leave out the others"),
    qlora("prompt and another form", 'completion: "{answer}"', "messages: question", f"data: {FORMS}: prompt and messages given; keep one"),
    qlora("prompt alone", ', completion: "{answer}"', "", "data: prompt needs completion: the template of the answer to train on"),
    qlora("completion alone", 'prompt: "{question}", ', "", "data: completion needs prompt: the template of the question"),
    qlora("NaN in a late row", "rows.jsonl", "late.jsonl", "late.jsonl, line 25: column 'answer' is nan, not a number"),
    qlora("evaluated on copies of rows", "rows.jsonl", "rows.jsonl, eval: some.jsonl", "data.eval: all rows are also in data.train, 3 of 3, the first on line 1: give other rows"),
    qlora("test rows that are no number", "eval_examples: 5", "eval_examples: 5, test_examples: none", "data.test_examples: 'none' must be a whole number or 'auto', or null for no test rows"),
    qlora("evaluated on what is trained on", "eval_examples: 5", "eval: rows.jsonl", "data.eval: is the same file as data.train"),
    # Promotion
    toy("unknown metric of a guard", "promotion: {guards: [{metric: acuracy, worse_by: 0.1}]}", "promotion.guards.0.metric: unknown metric 'acuracy'; did you mean eval_accuracy?"),
    toy("guard without a limit", "promotion: {guards: [{metric: eval_loss}]}", "promotion.guards.0.worse_by: is required"),
    toy("guard that nothing passes", "promotion: {guards: [{worse_by: 0}]}", "promotion.guards.0.worse_by: 0 must be greater than 0"),
    Row("guard's file missing", QLORA + "promotion: {guards: [{data: rowz.jsonl, worse_by: 0.1}]}\n", ["rowz.jsonl does not exist"]),
    Row("guard of other columns", QLORA + "promotion: {guards: [{worse_by: 1}, {data: other.jsonl, worse_by: 1}]}\n", ["promotion.guards.1.data: data.prompt: {question} is not a column of", "promotion.guards.1.data: data.completion: {answer} is not a column of"]),
    Row("guard on what is trained on", QLORA + "promotion: {guards: [{data: rows.jsonl, worse_by: 0.1}]}\n", ["promotion.guards.0.data: is the same file as data.train"]),
    Row("slices by a column that is not there", QLORA + "promotion: {slices: {by: language}}\n", ["promotion.slices.by: has no column 'language'; columns: question, answer"]),
    # Model
    qlora("no such folder", "hub/model", "./nowhere", "nowhere': no such file or folder"),
    qlora("not GGUF", "hub/model", "fake.gguf", "fake.gguf is not a whole GGUF file"),
    qlora("another kind of model file", "hub/model", "./notes.txt", "notes.txt': a file must be a .gguf"),
    qlora("empty source", "hub/model", "''", "model.source: '' must not be empty"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with everything that the rows name."""
    write_rows(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"question": "q", "answer": "a"}\n{"question": \n')
    rows = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "late.jsonl").write_text("".join([*rows[:24], '{"question": "q", "answer": NaN}\n', *rows[25:]]))
    (tmp_path / "some.jsonl").write_text("".join(rows[3:6]))
    (tmp_path / "other.jsonl").write_text('{"text": "q"}\n')
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "fake.gguf").write_text("not GGUF at all")
    (tmp_path / "list.yaml").write_text("- local\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_a_mistake_is_told_with_its_way_out(folder: Path, row: Row) -> None:
    check(folder, row)


@pytest.mark.parametrize("command", ["plan", "launch"])
@pytest.mark.parametrize("what", ["rank 0", "file missing", "syntax", "no model, no data, no name"])
def test_plan_and_launch_stop_at_the_same_mistakes(folder: Path, what: str, command: str) -> None:
    check(folder, next(row for row in ROWS if row.what == what), command)


def test_the_rows_are_right_but_for_their_mistakes(folder: Path) -> None:
    for text in (TOY, QLORA):
        (folder / "s.yaml").write_text(text)
        code, lines, out = run("validate", "s.yaml")
        told = ["s.yaml: valid (x, 4 searched fields)"]
        rows = ["data: 25 rows to train on, 5 to evaluate on"]
        assert (code, out.splitlines()) == (0, told + (rows if text == QLORA else []))
        assert all("5 rows to evaluate on can hardly tell adapters apart" in line for line in lines[1:])
        guess = "'hub/model': no such folder beside the sweep file: taken as a hub id, which is not in the hub's cache"
        assert not lines or f"warning: model.source: {guess}" in lines[0]
        assert json.loads(run("plan", "s.yaml", "--json")[2])["trials"] == 16
    assert not (folder / "results").exists()


ALL_AT_ONCE = """
name: x
model: {source: Qwen/Qwen3-8B}
data: {train: rows.jsonl, eval: some.jsonl, prompt: "{question}", completion: "{answer}"}
adapter: {target_modules: [q_prj]}
evaluation: {metrics: [exct_match]}
budget: {trails: 4}
promotion: {alias: latest}
"""


def test_mistakes_that_do_not_hide_each_other_are_told_in_one_round(folder: Path) -> None:
    (folder / "s.yaml").write_text(ALL_AT_ONCE)
    code, lines, _ = run("validate", "s.yaml")
    starts = [
        "budget.trails: unknown key",
        "evaluation.metrics.0: exct_match: no such grader; did you mean exact_match?",
        "adapter.target_modules: 'q_prj' matches no linear layer",
        "data.eval: all rows are also in data.train, 3 of 3",
        "promotion.alias: 'latest' is kept for other uses",
    ]
    assert (code, len(lines)) == (2, len(starts) + 1)
    for line, start in zip(lines, starts, strict=False):
        assert line.startswith(f"error: {start}")
    (folder / "s.yaml").write_text(ALL_AT_ONCE.replace("some.jsonl", "rowz.jsonl"))
    told = "\n".join(run("validate", "s.yaml")[1])
    assert all(start in told for start in ("rowz.jsonl does not exist", *starts[:3], starts[-1]))
    (folder / "s.yaml").write_text(ALL_AT_ONCE.replace("Qwen/Qwen3-8B", "./no_model"))
    told = "\n".join(run("validate", "s.yaml")[1])
    assert all(start in told for start in ("no_model': no such file or folder", *starts[:2], *starts[3:]))


def test_validate_warns_of_trials_that_none_can_stop_as_plan_does() -> None:
    told = [
        run(verb, "toy", "scheduler.grace_steps=27", "budget.steps_per_trial=27")[1] for verb in ("validate", "plan")
    ]
    of_validate, of_plan = ([line for line in lines if "no trial can be stopped early" in line] for lines in told)
    assert of_validate == of_plan
    assert of_validate[0].startswith("warning: scheduler.grace_steps reaches budget.steps_per_trial 27: ")


def test_an_unknown_recipe_names_those_there_are() -> None:
    told = {
        "toi": "and no recipe of that name; did you mean toy? (recipes: gsm8k,",
        "quickstart.yaml": "did you mean quickstart?",
        "nowhere/s.yaml": "nowhere/s.yaml: no such file (",
        ".": ".: is a folder (",
    }
    for file, line in told.items():
        code, lines, _ = run("validate", file)
        assert (code, line in lines[0]) == (2, True), lines


def test_a_tracking_server_that_does_not_answer_is_told_before_anything_starts(folder: Path, monkeypatch) -> None:
    code, lines, _ = run("launch", "toy", "tracking.uri=http://127.0.0.1:1")
    assert code == 2
    assert lines[-2].startswith("error: tracking.uri: http://127.0.0.1:1: no answer: Connection refused: start the ")
    assert "or launch with --offline" in lines[-2]
    assert lines[-1] == "1 problem; nothing was started"
    assert not Path("results").exists()
    # With --offline the launch gets as far as looking for the sweep that it is to learn from.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    _, lines, _ = run("launch", "toy", "tracking.uri=http://127.0.0.1:1", "searcher.warm_start=before", "--offline")
    assert not [line for line in lines if line.startswith("error: tracking.uri")], lines


def test_an_earlier_sweep_that_is_not_there_is_told_with_the_key_of_the_store(folder: Path) -> None:
    code, lines, _ = run("launch", "toy", "searcher.warm_start=before", "tracking.uri=sqlite:///none.db")
    assert code == 2
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert error.startswith("error: searcher.warm_start: sqlite:///")
    assert "none.db: no such database; name another sweep, leave it out, or name the store with tracking.uri=" in error


@pytest.mark.parametrize(
    ("verb", "of_sweep"),
    [("rollback", False), ("models", False), ("verify", False), ("export", False), ("promote", True), ("ui", True)],
)
def test_help_speaks_of_a_sweep_only_where_one_can_be_named(verb: str, of_sweep: bool) -> None:
    option = " ".join(run(verb, "--help")[2].replace("│", " ").split())
    assert "The MLflow store; if not given, " in option
    assert ("that of the sweep's folder, else" in option) is of_sweep
