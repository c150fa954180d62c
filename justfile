# Recipes run the same on a fresh clone: each one that needs the product first makes or mends
# .venv (.just/environment.py, a few hundredths of a second when there is nothing to do).
# Words are passed on as they are, and paths mean the folder that `just` was called from.

set positional-arguments
set no-exit-message

here := "cd " + quote(invocation_directory()) + " && exec "
clone := "cd " + quote(justfile_directory()) + " && exec "
bin := quote(justfile_directory() / ".venv/bin")
# Next steps and remedies are then printed as `just VERB ...`.
minivess := here + "env MINIVESS_CALLER=just " + bin + "/minivess"

# List the recipes
[private]
default:
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} --list --unsorted

# Profile, train, analyse and deploy: on demo data, or on `data.root=FOLDER`
[group("research")]
experiment *words: ready
    @{{ minivess }} experiment "$@"

# Pair, check, measure and version a folder of volumes
[group("research")]
profile *words: ready
    @{{ minivess }} profile "$@"

# Decide about flagged volumes: just review list, just review accept CASE --why '...'
[group("research")]
review *words: ready
    @{{ minivess }} review "$@"

# Look at a folder every hour, and announce what is new: just watch data.root=FOLDER
[group("research")]
watch *words: ready
    @{{ minivess }} watch "$@"

# Announce new data once, from a Git hook, a CI step or a webhook
[group("research")]
data-changed *words: ready
    @{{ minivess }} data-changed "$@"

# Let Prefect's server call an address when a deployed flow fails: just notify URL
[group("research")]
notify *words: ready
    @{{ minivess }} notify "$@"

# Train the grid of models x losses x folds x seeds
[group("research")]
train *words: ready
    @{{ minivess }} train "$@"

# Try settings with Optuna, as the part `search:` says, and write the best as an experiment file
[group("research")]
search *words: (ready "search")
    @{{ minivess }} search "$@"

# Judge every trained family out of fold and name the champion
[group("research")]
analyse *words: ready
    @{{ minivess }} analyse "$@"

# Export, check and serve the champion
[group("research")]
deploy *words: ready
    @{{ minivess }} deploy "$@"

# Look at a folder and write the smallest experiment file that runs it: just init FOLDER
[group("research")]
init *words: ready
    @{{ minivess }} init "$@"

# Show what would be trained, why, and how long it takes
[group("research")]
plan *words: ready
    @{{ minivess }} plan "$@"

# Segment files or a folder with the champion: just predict IN OUT
[group("research")]
predict *words: ready
    @{{ minivess }} predict "$@"

# Length, diameters and branching of the vessels of masks: just measure MASK_OR_FOLDER OUT
[group("research")]
measure *words: ready
    @{{ minivess }} measure "$@"

# Write a model as one file for other programs: just export FILE.zip --to monai
[group("research")]
export *words: ready
    @{{ minivess }} export "$@"

# Serve the model in production at :3000 until Ctrl-C: just serve MODEL@alias, just serve stop
[group("research")]
serve *words: ready
    @{{ minivess }} serve "$@"

# Prove a version and move `production` to it: just promote MODEL/2 --why '...'
[group("research")]
promote *words: ready
    @{{ minivess }} promote "$@"

# Prove the version before once more and move `production` back to it
[group("research")]
rollback *words: ready
    @{{ minivess }} rollback "$@"

# Two versions on the same volumes: just compare MODEL/1 MODEL/2
[group("research")]
compare *words: ready
    @{{ minivess }} compare "$@"

# Whether served volumes differ from those trained on
[group("research")]
drift *words: ready
    @{{ minivess }} drift "$@"

# From a run, a model or an answer back to the data
[group("research")]
lineage *words: ready
    @{{ minivess }} lineage "$@"

# A folder to hand on, readable without a server: just share FOLDER, --volumes
[group("research")]
share *words: ready
    @{{ minivess }} share "$@"

# Ask DuckDB over all runs: just sql "select ..."
[group("research")]
sql *words: ready
    @{{ minivess }} sql "$@"

# Examine machine, output folder, stores and servers; --fix does what is safe
[group("research")]
doctor *words: ready
    @{{ minivess }} doctor "$@"

# All results as a table: just runs, just runs analysis, just runs --all
[group("research")]
runs *words: ready
    @{{ minivess }} runs "$@"

# Open the latest report, or another page: just open gallery, just open mlflow, just open RUN
[group("research")]
open *words: ready
    @{{ minivess }} open "$@"

# The report of the latest analysis, as `just open report`
[group("research")]
report *words: ready
    @{{ minivess }} report "$@"

# Settings with default, meaning and values: just settings training
[group("research")]
settings *words: ready
    @{{ minivess }} settings "$@"

# What a setting does, or what the code of a check or an error asks for
[group("research")]
explain *words: ready
    @{{ minivess }} explain "$@"

# Write a template that works: just new model|loss|tier|experiment NAME
[group("research")]
new *words: ready
    @{{ minivess }} new "$@"

# Mean, deviation and rank of each family, from the plain files alone
[group("research")]
summary *words: ready
    @{{ minivess }} summary "$@"

# Send what waits in the journal, mark runs that died as KILLED and write all pointers anew
[group("research")]
settle *words: ready
    @{{ minivess }} settle "$@"

# What runs, until when, what is unfinished or out of date
[group("upkeep")]
status *words: ready
    @{{ minivess }} status "$@"

# Runs that lack what others rely on
[group("upkeep")]
audit *words: ready
    @{{ minivess }} audit "$@"

# Params that older runs prove themselves; --apply adds them
[group("upkeep")]
backfill *words: ready
    @{{ minivess }} backfill "$@"

# Delete runs for good, with their folds, files and logs: just delete RUN
[group("upkeep")]
delete *words: ready
    @{{ minivess }} delete "$@"

# What takes how much space in the output folder
[group("upkeep")]
disk *words: ready
    @{{ minivess }} disk "$@"

# Remove what can be made again: just clean, just clean GB --apply
[group("upkeep")]
clean *words: ready
    @{{ minivess }} clean "$@"

# The script that makes a shell complete words of `minivess`
[group("upkeep")]
completion *words: ready
    @{{ minivess }} completion "$@"

# Remove deleted runs for good; --apply does it
[group("upkeep")]
purge *words: ready
    @{{ minivess }} purge "$@"

# Artifact addresses after a move; --apply rewrites them
[group("upkeep")]
rebase *words: ready
    @{{ minivess }} rebase "$@"

# Do a training again from MLflow and DVC alone and compare; --export makes a bundle
[group("upkeep")]
reproduce *words: ready
    @{{ minivess }} reproduce "$@"

# Write the demo volumes into a folder
[group("research")]
demo-data *words: ready
    @{{ minivess }} demo-data "$@"

# Prefect's page at :4200 and MLflow's at :5000
[group("research")]
ui *words: ready
    @{{ minivess }} ui "$@"

# Prefect, MLflow and a worker in the background, with the flows registered
[group("servers")]
up *words: ready
    @{{ minivess }} up "$@"

# End the servers of `just up`
[group("servers")]
down *words: ready
    @{{ minivess }} down "$@"

# End the servers of `just up` and start them again
[group("servers")]
restart *words: ready
    @{{ minivess }} restart "$@"

# The last lines of the servers' logs: just logs worker --follow
[group("servers")]
logs *words: ready
    @{{ minivess }} logs "$@"

# State of the servers of `just up`; exit code 1 unless all are well
[group("servers")]
health *words: ready
    @{{ minivess }} health "$@"

# Images: just images flow, just images service FOLDER, or just images test FOLDER, which builds and tries both
[group("servers")]
images *words: ready
    @if [ "${1:-}" = test ]; then shift; {{ here }}{{ bin }}/python -P {{ quote(justfile_directory() / "bench/images.py") }} "$@"; \
    else {{ here }}{{ quote(justfile_directory() / "docker/build") }} "$@"; fi

# All results on one page in the browser, or as a file to hand on: just notebook export FILE.html
[group("research")]
notebook *words: (ready "notebook")
    @export MARIMO_SKIP_UPDATE_CHECK=1; \
    if [ "${1:-}" = export ]; then shift; {{ here }}{{ bin }}/marimo export html --no-include-code {{ quote(justfile_directory() / "notebooks/workspace.py") }} -o "$@"; \
    else {{ here }}{{ bin }}/marimo run {{ quote(justfile_directory() / "notebooks/workspace.py") }} "$@"; fi

# Make the pages of docs/ a site that is searched without a network, or look at it: just docs serve
[group("house")]
docs *words="build": (ready "docs")
    @{{ clone }}env NO_MKDOCS_2_WARNING=1 {{ bin }}/mkdocs "$@" --strict

# What a verb does, its options and settings: just help train
[group("upkeep")]
help *words: ready
    @{{ minivess }} help "$@"

# Make or repair .venv, looking into every package; `just setup s3` adds an extra of pyproject.toml
[group("house")]
setup *extras: (ready "--repair" extras)

# Run the tests, a file at a time on each of up to four cores: all, or `just test quick`; words go to pytest
[group("house")]
test *words: (ready "dev")
    @if [ "${1:-}" = quick ]; then shift; set -- -m "not slow and not gpu" "$@"; fi; \
    {{ clone }}env OMP_NUM_THREADS=1 {{ bin }}/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"

# Line coverage of the quick tests, which fails below the floor in pyproject.toml
[group("house")]
coverage *words: (ready "dev")
    @{{ clone }}env OMP_NUM_THREADS=1 COVERAGE_CORE=sysmon {{ bin }}/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow and not gpu" --cov --cov-report=term "$@"

# Linter, format, types, import contracts, spelling
[group("house")]
check: (ready "dev")
    @{{ clone }}{{ bin }}/ruff check .
    @{{ clone }}{{ bin }}/ruff format --check .
    @{{ clone }}{{ bin }}/mypy
    @{{ clone }}{{ bin }}/lint-imports --no-cache
    @{{ clone }}{{ bin }}/codespell

# Chains through random kills, freezes and stops, compared with an undisturbed one: just chaos 30 7
[group("house")]
chaos minutes="10" seed="0": ready
    @{{ clone }}{{ bin }}/python -P bench/chaos.py "$1" --seed "$2"

# List the measuring scripts of bench/, or run one: just bench NAME
[group("house")]
bench name="" *words: ready
    @if [ -n "$1" ]; then script=$1; shift; {{ clone }}{{ bin }}/python -P "bench/$script.py" "$@"; \
    else cd {{ quote(justfile_directory()) }} && grep -H -m 1 '^"""' bench/*.py 2>/dev/null || echo "bench/ is empty"; fi

[private]
ready *words:
    @command -v python3 >/dev/null || { printf '%s\n' 'minivess needs Python 3.11 to 3.14.' \
    '  Try: sudo apt install python3 python3-venv (Debian, Ubuntu)' >&2; exit 1; }
    @python3 {{ quote(justfile_directory() / ".just/environment.py") }} "$@"
