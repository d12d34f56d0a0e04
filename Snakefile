from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version

min_version("9.20")


# The environment may lie elsewhere; the project's own files are found from here, results go to the working directory.
HOME = workflow.basedir
# Stage files show faces: what jobs write is for their owner alone.
os.umask(0o077)


configfile: f"{HOME}/config.yaml"


include: "rules/common.smk"


check_config(config, f"{HOME}/workflow/schemas/config.schema.yaml")
CLIPS = read_clips(config["clips"], config["audio"])
METHODS = config["methods"]
WEIGHTS = weights(f"{HOME}/resources/models.yaml", config["models"], HOME)
GPU = 0 if config["device"] == "cpu" else 1
code = functools.partial(sources, package=f"{HOME}/src/peekaboo")
shell.prefix(
    shell_prefix(
        HOME, DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    )
)


wildcard_constraints:
    clip="|".join([*CLIPS, *RENDERED]),
    method="|".join(ALL_METHODS),


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


rule all:
    default_target: True
    input:
        "results/table.tsv",
        "results/report/index.html",
    localrule: True


onsuccess:
    print(closing(CLIPS, METHODS))
