# A file that is there is left alone: nothing here depends on the program or the settings, so that nothing is downloaded twice.
rule fetch:
    """Download one file of the registry and check it."""
    output:
        # Not removed beforehand: whatever the reason to run, a right file stays.
        update(f"{DOWNLOADS}/{{file}}"),
    log:
        "logs/fetch/{file}.log",
    wildcard_constraints:
        file="|".join(re.escape(file) for file in NAME_OF_FILE),
    retries: 2
    localrule: True
    conda:
        "../envs/peekaboo.yaml"
    params:
        name=lambda wildcards: NAME_OF_FILE[wildcards.file],
        options=fetch_options(
            REGISTRY_PATH, config["mirror"], config["accept_licences"]
        ),
    message:
        "Download {wildcards.file}"
    # Progress is for the user's eyes, and so is the reason of a failure.
    shell:
        """
        python -m peekaboo.models.fetch {params.name} {params.options} >{log}
        """


rule convert:
    """Make the safetensors file of a network from its published checkpoint."""
    input:
        checkpoints_of(REGISTRY, DOWNLOADS),
    output:
        f"{DOWNLOADS}/{{weights}}.safetensors",
    log:
        "logs/convert/{weights}.log",
    wildcard_constraints:
        weights="|".join(name for name in REGISTRY if "convert" in REGISTRY[name]),
    conda:
        "../envs/peekaboo.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        registry=REGISTRY_PATH,
        folder=subpath(output[0], parent=True),
    message:
        "Convert {wildcards.weights}"
    shell:
        """
        python -m peekaboo.models.pickles {wildcards.weights} \
            --registry {params.registry:q} --folder {params.folder:q} >{log} 2>&1
        """


rule fetch_models:
    """Download all networks of the tier that `models` names, or those that the configuration uses."""
    input:
        fetched(REGISTRY, TO_DOWNLOAD, DOWNLOADS, config["accept_licences"]),
    localrule: True
