"""Type each command that README and docs/ show, in a clone after `just experiment`.

Words in capitals and paths of examples become those of this clone; trainings become short. What is
not typed here stands below with the reason. Ends with 1 if any command fails or is not known here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
SKIPPED = {
    r"just (bench|check|test|setup|experiment( \.\.\.)?$)": "typed by .ci/run, or takes hours",
    r"just (docs|notebook)": "needs an extra; in tests/",
    r"just (plan|experiment) /path": "shown twice",
    r"(just|minivess) (ui|watch|notify|data-changed|serve($| [a-z.]+=))": "runs until Ctrl-C",
    r"just (status|logs .*) --follow": "runs until Ctrl-C",
    r"just .*(s3://|training.deployment=|processes_per_cell)": "needs other machines; in tests/",
    r"just .*(--deployed|hours=|training.init=|=prefix)": "needs Prefect, other settings, a former "
    "model or other names; in tests/",
    r"just images": "takes minutes, and a builder of images",
    r"just demo-data .*two-photon": "takes a minute; in tests/",
    r"just .*(0\.0\.0\.0|SERVER)": "needs a token and another machine; in tests/",
    r"(just|minivess) VERB": "a form",
    r"just new($| \w+ NAME)|minivess (help VERB|explain SETTING|profile data.root=ROOT)": "a form",
    r"just explain CODE": "a form",
    r"(just|minivess) (sql|export)$": "a form",
    r"just up --watch": "as `just up`, with a watcher beside it; in tests/",
    r"just health$": "its exit code says that nothing runs after `just down`",
    r"(just|minivess) .*(\.\.\.\]?$|\[|<)(?!.*')": "a form, not a command",
    r"minivess (--help|new )": "not a recipe, or the name of an automation",
    r"just (delete|settle RUN_ID|clean --apply)": "takes away what others need; in tests/",
    r"just rebase OLD NEW|just review (import|fix)|just plan .*_manual|just .*mouse": "needs files "
    "that only the reader has; tests/ type it on such files",
    r"(just|minivess) (train|deploy|analyse|search|experiment)$": "the chain has just done it",
    r"just search FILE|minivess (predict|measure|plan|settle RUN_ID|reproduce)": "shown twice",
    r"just train ('training.losses|training.max_epochs=50|configs)": "as others, with other values",
    r"just train( data.root=FOLDER)? .*(max_epochs=[12]00|extends)": "needs a long training first",
}
SHORT = "model.filters=[4,8,16] training.max_epochs=1 training.folds=2 training.losses=dice_ce " \
    "training.samples_per_volume=1 tracking.log_system_metrics=false"  # fmt: skip


READING = (
    r"(just|minivess) "
    r"(help|settings|explain|sql|runs|status|audit|lineage|plan|doctor|disk|summary)\b"
)
"""Commands that change nothing: two of them run at a time."""


def main() -> int:
    """Run them all; a line for each."""
    typed: set[str] = set()
    with ThreadPoolExecutor(2) as pool:
        reading: list[Future[bool]] = []
        for command in commands():
            if why := skipped(command):
                print(f"  skipped  {command}: {why}")
                continue
            alone = not re.match(READING, command)
            if alone:
                wait(reading)  # each command finds the home as the ones before it left it
            line = filled(command)
            if line in typed:
                continue
            typed.add(line)
            reading.append(pool.submit(succeeds, line))
            if alone:
                wait(reading)
        failed = sum(not succeeded.result() for succeeded in reading)
    print(f"{failed} of {len(typed)} documented commands failed")
    return 1 if failed else 0


def skipped(command: str) -> str:
    """Why a command is not typed; "" if it is."""
    return next((why for rule, why in SKIPPED.items() if re.match(rule, command)), "")


def succeeds(line: str) -> bool:
    """Type one line; print how it ended, and what it said if it failed."""
    started = time.monotonic()
    # Prefect's server is started by the chain before this; here it would take most of the time.
    env = {**os.environ, "PREFECT_DISABLED": "1"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=CLONE, env=env, capture_output=True, text=True, check=False
    )
    said = done.stdout[-800:] + done.stderr[-1500:] if done.returncode else ""
    print(
        f"  {done.returncode}  {time.monotonic() - started:5.1f} s  {line}\n{said}",
        end="",
        flush=True,
    )
    return done.returncode == 0


def commands() -> list[str]:
    """Indented lines and code spans of the pages, each once, in their order."""
    pages = [CLONE / "README.md", *sorted((CLONE / "docs").glob("*.md"))]
    found: list[str] = []
    for page in pages:
        if page.name == "log.md":
            continue
        for line in page.read_text(encoding="utf-8").splitlines():
            spans = re.findall(r"`((?:just|minivess) [^`]+)`", line)
            if match := re.match(r"    ((?:just|minivess) .*)", line):
                spans = [re.sub(r"\s{2,}#.*", "", match[1]).strip()]
            found += [" ".join(span.split()) for span in spans]
    return list(dict.fromkeys(found))


def filled(command: str) -> str:
    """The command with what this clone has in place of examples."""
    folder, out = CLONE / "outputs" / "documented", CLONE / "outputs" / "documented-out"
    if not folder.exists():
        shutil.copytree(CLONE / "outputs" / "demo-data", folder)
        image, label = (sorted((folder / role).iterdir())[0] for role in ("images", "labels"))
        for file in (image, label):
            shutil.copy(file, file.with_name("copy_z05.nii.gz"))
    image = sorted((CLONE / "outputs" / "demo-data" / "images").iterdir())[0]
    served = runs("model")[0]
    other = "demo/2" if served == "demo/1" else "demo/1"
    for written, meant in {
        "/path/to/folder": str(folder), "data.root=ROOT": f"data.root={folder}",
        "FOLDER_OF_THE_DATA": str(folder), "data.root=FOLDER": f"data.root={folder}",
        "init FOLDER": f"init {folder}", "share FOLDER": f"share {out}/shared name=demo",
        "minivess ": "just ", "MODEL/1": served, "MODEL/2": other,
        "vessels/1": served, "vessels/2": other, "review worst DIR": f"review worst {out}/worst",
        "RUN_OR_MODEL": "MODEL", "MODEL@production": "MODEL",
        "compare OLD NEW": "compare demo documented",
        "MODEL": "demo@production", "demo-data DIR": f"demo-data {out}/demo",
        "image.nii.gz masks/": f"{image} {out}/masks/",
        "MASK_OR_FOLDER OUT": f"{folder}/labels {out}/numbers",
        "IN OUT": f"{image} {out}/masks2/ name=demo",
        "export DIR": f"export --all {out}/{command.split()[-1]}", "CASE": "phantom00_z05",
        "'...'": "'typed by a test'", "select ...": "select count(*) as n from runs",
        "ID,ID": ",".join(runs("training_run_ids")), "run.zip": f"{out}/run.zip",
        "FILE.zip": f"{out}/model.zip",
        "vessels.zip": f"{out}/vessels.zip", "FOLDER --faults": f"{out}/faults --faults",
        "ANALYSIS_ID": runs("analysis_run_id")[0],
        "train --upstream RUN_ID": f"train --upstream {runs('data_profile_run_id')[0]}",
        "reproduce RUN_ID": f"reproduce {short_training()}" if "reproduce RUN" in command else "",
        "RUN_ID": runs("training_run_ids")[0],
    }.items():  # fmt: skip
        command = command.replace(written, meant)
    given = {word.strip("'").partition("=")[0] for word in command.split()}
    if re.match(r"just (train|experiment|search)", command):
        varied = "training.axes." in command
        short = [
            word
            for word in SHORT.split()
            if word.partition("=")[0] not in given and not (varied and word.startswith("model."))
        ]
        command += " " + " ".join(f"'{word}'" for word in short)
    if command.startswith("just export"):
        command += " name=demo"
    if command.startswith("just review"):  # the pages speak of a home with one dataset
        command += " --dataset demo"
    if re.match(r"just (serve --detach|rollback|drift|promote$)", command):
        command += " name=demo"
    return command + (" search.trials=1" if command.startswith("just search") else "")


def short_training() -> str:
    """A training of one epoch, which an experiment on the copy of the demo data has made."""
    query = (
        "select run_id from runs where kind = 'family' and status = 'FINISHED' "
        "and dataset = 'documented' order by start_time limit 1"
    )
    done = subprocess.run(
        ["just", "sql", query, "--json"], cwd=CLONE, capture_output=True, text=True, check=True
    )
    run_id: str = json.loads(done.stdout.splitlines()[-1])["rows"][0]["run_id"]
    return run_id


def runs(key: str) -> list[str]:
    """Ids that `just experiment --json` printed last."""
    printed = json.loads(Path(os.environ["PRINTED"]).read_text().splitlines()[-1])
    value = printed[key]
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    sys.exit(main())
