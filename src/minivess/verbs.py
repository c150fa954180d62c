"""Table of all verbs: arguments, options, and the settings that each uses.

Nothing heavy is imported here, so that help and a mistyped verb answer at once.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

TIERS = ("cpu", "gpu_low", "gpu_high", "dgx_spark", "cloud_single", "cloud_multi")
FLAG: dict[str, Any] = {"action": "store_true", "default": False}
PORT: dict[str, Any] = {"type": int, "metavar": "PORT"}
OPTIONS: dict[str, dict[str, Any]] = {
    "config": {"action": "append", "dest": "files", "metavar": "FILE",
               "help": "a YAML file of settings; bare file names do the same"},
    "upstream": {"action": "append", "default": [], "metavar": "ID[,ID]",
                 "help": "run ids to build on, instead of the latest"},
    **{tier.replace("_", "-"): {"action": "append_const", "dest": "tiers", "const": tier,
                                "help": f"compute.profile={tier}"} for tier in TIERS},
    "yes": {**FLAG, "help": "do not ask: start even if the forecast is long, or delete"},
    "apply": {**FLAG, "help": "make the changes that are only shown without it"},
    "fix": {**FLAG, "help": "settle what is safe: journals, dead runs, aliases, pointers"},
    "force": {**FLAG, "help": "also what is still needed"},
    "explain": {**FLAG, "help": "of each trial, why it was tried and how it ended"},
    "follow": {**FLAG, "help": "repeat until Ctrl-C"},
    "export": {"nargs": "?", "const": "", "metavar": "FILE.zip",
               "help": "make a portable bundle (a folder without .zip) instead"},
    "trust": {**FLAG, "help": "run the code that a bundle brings, with your rights"},
    "why": {"help": "the reason of the decision"},
    "who": {"help": "who decides, instead of the name of this account"},
    "label": {"metavar": "FILE", "help": "the label file to use"},
    "image": {"metavar": "FILE", "help": "the image file to use"},
    "dataset": {"help": "the dataset, where this home has several"},
    "as": {"dest": "tool", "choices": ("slicer", "label-studio"), "default": "slicer",
           "help": "the tool that the folder is for"},
    "faults": {"metavar": "ID", "help": "with breaks and merges of this analysis as marks; volumes "
               "that have some, where none is named"},
    "like": {"choices": ("demo", "two-photon"), "default": "demo",
             "help": "two-photon: large stacks, thick and thin vessels, dark regions, in groups"},
    "all": {**FLAG, "help": "also decided volumes; also folds, trials and runs that failed"},
    "port": {**PORT, "default": 3000, "help": "where the model is served, 3000 by default"},
    "host": {"metavar": "ADDRESS", "default": "127.0.0.1",
             "help": "address to listen at; 0.0.0.0 lets other machines in"},
    "detach": {**FLAG, "help": "serve in the background: minivess serve status, serve stop; with "
               "--deployed, return without following the flow run"},
    "model": {"metavar": "FILE", "help": "take a file of `minivess export`, without any store"},
    "measure": {**FLAG, "help": "measure the vessels of the masks, too: see `minivess measure`"},
    "volumes": {**FLAG, "help": "with images, ground truth and kept masks out of fold"},
    "to": {"choices": ("onnx", "torchscript", "monai", "bioimageio"), "default": "onnx",
           "help": "the program that the file is for, onnx by default"},
    "url": {"metavar": "URL", "help": "ask a service for the masks: http://127.0.0.1:3000"},
    "prefect-port": {**PORT, "default": 4200, "help": "of Prefect's page, 4200 by default"},
    "mlflow-port": {**PORT, "default": 5000, "help": "of MLflow's page, 5000 by default"},
    "watch": {"metavar": "FOLDER_OR_FILE",
              "help": "also look for new data, in a folder or that of an experiment file"},
    "deployed": {**FLAG, "help": "on a work pool, in place of this process"},
    "pool": {"metavar": "NAME", "help": "with --deployed: the work pool, where there are several"},
    "schema": {**FLAG, "help": "print the JSON schema of what --json prints; of `sql`: tables, "
               "views, their columns and example queries"},
    "json": {**FLAG, "help": "print one JSON object as the last line"},
    "quiet": {**FLAG, "help": "print only the outcome, warnings and errors; with --json, the "
              "outcome is its object"},
    "debug": {**FLAG, "help": "show tracebacks and all log lines"},
}  # fmt: skip


class Verb(NamedTuple):
    """One row of the grammar."""

    help: str
    bare: str = ""
    """Words that are no settings: `IN OUT`, `[ID ...]`."""
    options: tuple[str, ...] = ("json",)
    uses: tuple[str, ...] = ()
    """Parts and settings that decide what it does; `-key` takes one out again."""
    opens: Literal["nothing", "home", "lock", "lock to apply"] = "home"

    def reads(self, key: str) -> bool:
        """Whether a setting decides anything here."""
        named = {part.removeprefix("-"): not part.startswith("-") for part in self.uses}
        held = [kept for part, kept in named.items() if f"{key}.".startswith(f"{part}.")]
        return bool(held) and all(held)

    @property
    def takes_ids(self) -> bool:
        """Whether run ids are among its words."""
        return any(word in self.bare for word in ("ID", "RUN", "REF"))

    def accepts(self) -> tuple[str, ...]:
        """Its options, with those of every verb."""
        schema = ("schema",) * ("json" in self.options and "schema" not in self.options)
        return (*(("config",) if self.uses else ()), *self.options, *schema, "debug")


TIER = tuple(tier.replace("_", "-") for tier in TIERS)
STORE = ("tracking.uri",)
DATASET = ("data.root", "data.name")
NAMED = ("name", *DATASET, *STORE)
DATA = ("name", "data", "-data.watch_interval_s", "tracking")
GRID = (*DATA, "hours", "compute", "model", "training", "evaluation")
JUDGED = (*NAMED, "tracking", "training.device", "evaluation", "analysis")
SERVED = (*NAMED, "tracking", "deployment")
# A trial is one family, whose cells train one after the other in this process.
TRIED = (*GRID, "search", "-hours", "-training.refit", "-training.deployment",
         "-training.slots", "-training.parallel_cells", "-training.processes_per_cell")  # fmt: skip
# An event hands on what it does not use itself; where runs are kept is the reader's affair.
HANDED_ON = (*(part for part in GRID if part not in ("tracking", "-data.watch_interval_s")), *STORE)
TOLD = ("json", "quiet")
POOLED = ("deployed", "pool", "detach")
DECIDES = ("why", "who", "dataset", "json")

VERBS = {
    "experiment": Verb("the four flows in order; without arguments on demo data", "",
                       (*TIER, "yes", *POOLED, *TOLD), ("flows", *GRID, *JUDGED, *SERVED), "lock"),
    "profile": Verb("flow 1: pair, check, measure and version a dataset", "",
                    TOLD, DATA, "lock"),
    "review": Verb("list, accept, reject, fix, export, import: decide about flagged volumes",
                   "[ACTION ...]", ("all", "dataset", "json"), DATASET),
    "watch": Verb("scan the data every hour and announce what is new (data.watch_interval_s)",
                  "", (), HANDED_ON),
    "data-changed": Verb("announce new data once: for a Git hook, a CI step, a webhook",
                         "", ("json",), (*HANDED_ON, "-data.watch_interval_s")),
    "notify": Verb("let Prefect's server call this address when a deployed flow fails", "URL"),
    "train": Verb("flow 2: train every cell of the grid that is not trained yet", "",
                  ("upstream", *TIER, "yes", *POOLED, *TOLD), GRID, "lock"),
    "search": Verb("try the settings of the part `search:`, write the best as an experiment file",
                   "", ("upstream", *TIER, "explain", *TOLD), TRIED, "lock"),
    "analyse": Verb("flow 3: judge out of fold, choose the champion, write the report", "",
                    ("upstream", *POOLED, *TOLD), JUDGED, "lock"),
    "deploy": Verb("flow 4: export, check and serve the champion", "",
                   ("upstream", *POOLED, *TOLD), SERVED, "lock"),
    "serve": Verb("serve the model in production, or MODEL@alias, MODEL/version, until Ctrl-C",
                  "[MODEL]", ("port", "host", "detach", "json"),
                  (*NAMED, "deployment.start_timeout_s")),
    "promote": Verb("prove a version, compare it with the one served, move `production`; without "
                    "MODEL: its history", "[MODEL]", ("who", "why", *TOLD), SERVED, "lock"),
    "rollback": Verb("prove the version before, or VERSION, once more, and move `production` back",
                     "[VERSION]", ("who", "why", *TOLD), SERVED, "lock"),
    "compare": Verb("two versions of a model, two experiments or two analyses on the same volumes",
                    "OLD NEW", uses=SERVED),
    "drift": Verb("whether served volumes differ from those trained on; exit code 1 if they do",
                  "[MODEL]", ("json",), NAMED),
    "init": Verb("look at a folder and write the smallest experiment file that runs it", "FOLDER",
                 uses=("data", "-data.root", "-data.watch_interval_s", "-data.demo_volumes",
                       "-data.demo_seed", *STORE)),
    "plan": Verb("check the data, show every automatic choice and what the grid will cost", "",
                 ("upstream", *TIER, "json"), (*HANDED_ON, "-data.watch_interval_s")),
    "predict": Verb("segment files or folders with the model in production", "IN OUT",
                    ("upstream", "url", "model", "measure", *TOLD),
                    (*NAMED, "data.spacing", "data.unit", "deployment.out_of_range")),
    "measure": Verb("length, diameters, branching of the vessels of masks: table, GraphML, SWC",
                    "MASK_OR_FOLDER [OUT]", ("json",),
                    ("data.spacing", "data.unit", "data.label_map"), "nothing"),
    "export": Verb("write a model as one file for other programs and machines", "FILE.zip",
                   ("to", "upstream", *TOLD), NAMED),
    "share": Verb("a folder to hand on: report, tables, methods, model card, lineage, checklist",
                  "FOLDER", ("upstream", "volumes", "json"), NAMED),
    "lineage": Verb("from a run id or model name back to the data hash", "REF", uses=STORE),
    "sql": Verb("ask DuckDB over all runs: one SELECT, or --schema", "[QUERY]",
                ("schema", "json"), STORE),
    "status": Verb("what runs, until when, what is unfinished or out of date", "",
                   ("follow", "json"), STORE),
    "doctor": Verb("examine machine, output folder, stores and servers; --fix does what is safe",
                   "", ("fix", "json"), (*STORE, "tracking.artifact_root", "data.remote"),
                   "nothing"),
    "runs": Verb("all results as a table, newest first; of some kinds: runs family analysis",
                 "[KIND ...]", ("all", "json"), NAMED),
    "open": Verb("open report, gallery, search, mlflow, prefect or the page of a run; without a "
                 "word the report", "[PAGE_OR_RUN]", ("upstream", "json"), NAMED),
    "report": Verb("open report: the report of the latest analysis, or of --upstream", "",
                   ("upstream", "json"), NAMED),
    "delete": Verb("delete runs for good, with their folds, files and logs", "RUN ...",
                   ("yes", "force", "json"), STORE, "lock"),
    "disk": Verb("what takes how much space in the output folder", opens="nothing"),
    "clean": Verb("remove what can be made again, until the folder is below GB", "[GB]",
                  ("apply", "json"), STORE, "lock to apply"),
    "settings": Verb("settings with default, meaning and values: settings training", "[PART ...]",
                     opens="nothing"),
    "explain": Verb("what a setting does, or what the code of a check or an error asks for",
                    "SETTING_OR_CODE", opens="nothing"),
    "new": Verb("write a template that works: model, loss, tier, experiment", "KIND NAME",
                opens="nothing"),
    "completion": Verb("the script that makes a shell complete words: bash, zsh", "SHELL [LINE]",
                       (), opens="nothing"),
    "summary": Verb("mean, deviation and rank of each family, from plain files alone", "",
                    ("json",), ("name", *DATASET), "nothing"),
    "settle": Verb("upload journals, mark dead runs as KILLED, write all pointers again",
                   "[ID ...]", ("json",), NAMED, "lock"),
    "audit": Verb("runs that lack required fields; exit code 1 if any does", "[ID ...]",
                  uses=STORE),
    "backfill": Verb("add params that older runs can derive from their artifacts", "[ID ...]",
                     ("apply", "json"), STORE, "lock to apply"),
    "purge": Verb("remove deleted runs for good", "[ID ...]",
                  ("apply", "force", "json"), STORE, "lock to apply"),
    "rebase": Verb("artifact addresses after a move", "[OLD NEW]",
                   ("apply", "json"), STORE, "nothing"),
    "reproduce": Verb("train a run again and compare, or make a bundle", "RUN_ID_OR_BUNDLE",
                      ("export", "trust", *TOLD), STORE, "lock"),
    "demo-data": Verb("write the demo volumes into a folder", "DIR",
                      ("like", "json"), ("data.demo_volumes", "data.demo_seed"), "nothing"),
    "ui": Verb("Prefect's page at :4200 and MLflow's at :5000, until Ctrl-C", "",
               ("prefect-port", "mlflow-port"), STORE, "nothing"),
    "up": Verb("start Prefect, MLflow and a worker in the background, and register the flows", "",
               ("prefect-port", "mlflow-port", "watch", "json"), STORE, "nothing"),
    "down": Verb("end the servers of `up`", "", ("force", "json"), STORE, "nothing"),
    "restart": Verb("end the servers of `up` and start them again", "", ("force", "json"), STORE,
                    "nothing"),
    "logs": Verb("the last lines of the servers' logs: prefect, mlflow, worker, watcher",
                 "[SERVER ...]", ("follow",), STORE, "nothing"),
    "health": Verb("state of the servers of `up`; exit code 1 unless all are well", "",
                   ("json",), STORE, "nothing"),
    "help": Verb("what a verb does, its options and its settings", "[VERB]", ()),
}  # fmt: skip
ACTIONS = {
    "list": VERBS["review"]._replace(help="what waits for a decision", bare=""),
    "accept": Verb("goes in despite its finding", "CASE ...", DECIDES, DATASET),
    "reject": Verb("is left out", "CASE ...", DECIDES, DATASET),
    "fix": Verb("goes in with other files in place of its own", "CASE",
                ("label", "image", *DECIDES), DATASET),
    "reopen": Verb("withdraws the decisions", "CASE ...", DECIDES, DATASET),
    "export": Verb("what waits, or the volumes named, for an annotation tool", "DIR [CASE ...]",
                   ("as", "all", "faults", "dataset", "json"), DATASET),
    "worst": Verb("the three (or NUMBER) volumes with the lowest Dice out of fold, with their "
                  "breaks and merges as marks, for 3D Slicer or napari", "DIR [NUMBER]",
                  ("upstream", "dataset", "json"), DATASET),
    "import": Verb("what was changed or judged there, as decisions", "DIR_OR_FILE.json",
                   ("why", "who", "json")),
}  # fmt: skip
SERVER_ACTIONS = {
    "status": Verb("what is served from this home; exit code 1 if nothing is"),
    "stop": Verb("end it; requests that are in are answered first"),
}
PAGES = ("report", "gallery", "search", "mlflow", "prefect")
"""What `open` shows by name."""
ACTIONS_OF = {"review": ACTIONS, "serve": SERVER_ACTIONS}
GROUPS = {
    "to begin": ("experiment", "init", "plan", "doctor", "help"),
    "data": ("profile", "review", "demo-data", "watch", "data-changed"),
    "training and analysis": ("train", "search", "analyse", "new", "settings", "explain"),
    "models in use": ("predict", "measure", "deploy", "serve", "promote", "rollback", "compare",
                      "drift", "export"),
    "results": ("runs", "open", "report", "summary", "sql", "lineage", "share", "reproduce"),
    "what runs": ("status", "ui", "up", "down", "restart", "health", "logs", "notify"),
    "keeping house": ("disk", "clean", "delete", "settle", "audit", "backfill", "purge", "rebase",
                      "completion"),
}  # fmt: skip
"""Headings of the list of verbs; each verb stands below one."""
ROWS = VERBS | {
    f"{verb} {action}": row for verb, rows in ACTIONS_OF.items() for action, row in rows.items()
}

COMMAND = re.compile(rf"(?<![\w./-])minivess (?=(?:VERB|{'|'.join(VERBS)})\b)")


def spelled(text: str) -> str:
    """Commands as they can be typed here: `just train` where `just` called."""
    from minivess.config import caller

    return COMMAND.sub(f"{caller()} ", text)
