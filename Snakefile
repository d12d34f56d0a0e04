import gc

from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version

min_version("9.20")


# The environment may lie elsewhere; the project's own files are found from here, results go to the working directory.
HOME = workflow.basedir
# Stage files show faces: what jobs write is for their owner alone.
os.umask(0o077)
# The jobs of many clips are millions of objects that stay: looking for garbage among them takes a third of the planning.
gc.freeze()
gc.set_threshold(50_000, 20, 100)


include: "rules/common.smk"


# Cluster jobs run Snakemake too, inside the run that has submitted them.
if workflow.is_main_process and not workflow.dryrun:
    HELD = hold()
elif workflow.remote_exec:
    # Their cards are for one job.
    os.environ.pop("PEEKABOO_KEEP", None)

# Until the next directive config is what the user gave: it has the last word over a preset.
GIVEN = copy.deepcopy(config)


configfile: f"{HOME}/config.yaml"


PRESET = apply_preset(config, GIVEN, HOME)
check_config(config, f"{HOME}/workflow/schemas/config.schema.yaml")
REGISTRY_PATH = os.path.relpath(f"{HOME}/resources/models.yaml")
REGISTRY = read_registry(REGISTRY_PATH, f"{HOME}/workflow/schemas/models.schema.yaml")
check_models(REGISTRY, config["models"], config["measure"], config["accept_licences"])
DOWNLOADS = os.path.relpath(Path(HOME, config["downloads"]))
WEIGHTS = weights(REGISTRY, config["models"], HOME, DOWNLOADS)
JUDGES = judges(REGISTRY, config["measure"], HOME, DOWNLOADS)
USED = {*config["models"].values(), *config["measure"].values()} - {"none"}
TO_DOWNLOAD = to_download(REGISTRY, PRESET, USED)
NAME_OF_FILE = {
    entry["file"]: name for name, entry in REGISTRY.items() if "addresses" in entry
}
check_downloads(REGISTRY, TO_DOWNLOAD, DOWNLOADS)
CLIPS, NO_CLIPS = found_clips(config["clips"], config["audio"])
METHODS = config["methods"]
GPU = 0 if config["device"] == "cpu" else 1
code = functools.partial(code_of, package=f"{HOME}/src/peekaboo")
shell.prefix(
    shell_prefix(
        HOME, DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    )
)


wildcard_constraints:
    clip=ID_PATTERN if NO_CLIPS else "|".join([*CLIPS, *RENDERED]),
    method="|".join(ALL_METHODS),


include: "rules/fetch.smk"
include: "rules/source.smk"
include: "rules/extract.smk"
include: "rules/withhold.smk"
include: "rules/invert.smk"
include: "rules/tune.smk"
include: "rules/score.smk"
include: "rules/traverse.smk"
include: "rules/decode.smk"
include: "rules/compose.smk"
include: "rules/measure.smk"
include: "rules/report.smk"
include: "rules/train.smk"
include: "rules/synth.smk"
include: "rules/benchmark.smk"
include: "rules/chain.smk"
include: "rules/sweep.smk"


rule all:
    default_target: True
    input:
        "results/table.tsv",
        "results/report/index.html",
    localrule: True


onsuccess:
    print(closing(CLIPS, METHODS))


onerror:
    print(failing(workflow.scheduler, CLIPS, METHODS))
