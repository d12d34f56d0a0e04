rule renders:
    """Render the set that the embedded networks are trained on."""
    input:
        head=config["head"],
        settings=f"{HOME}/resources/embedded/training.yaml",
        code=sorted({*code("peekaboo.synth.render"), *code("peekaboo.synth.capture")}),
    output:
        renders="training/renders.h5",
    log:
        "logs/training/renders.log",
    benchmark:
        "benchmarks/training/renders.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        """
        python -m peekaboo.synth.train renders --settings {input.settings} --head {input.head:q} \
            --output {output.renders} >{log} 2>&1
        """


# No code among its inputs: an edit must not throw hours of training away.
rule train:
    """Train one embedded network; goes on from its checkpoint after an interruption."""
    input:
        unpack(trained_before),
        renders=rules.renders.output.renders,
        settings=f"{HOME}/resources/embedded/training.yaml",
    output:
        weights="training/{network}.safetensors",
    log:
        "logs/training/{network}.log",
    benchmark:
        "benchmarks/training/{network}.jsonl"
    wildcard_constraints:
        network="|".join(TRAINED_BEFORE),
    conda:
        "../envs/peekaboo.yaml"
    # A process a thread, which share each batch. Two small networks use two cores better than one of them twice.
    threads: lambda wildcards: 2 if wildcards.network == "generator" else 1
    resources:
        mem_mb=6000,
        runtime=240,
    params:
        before=before_options,
    shell:
        """
        OMP_NUM_THREADS=1 python -m torch.distributed.run --standalone --nproc-per-node {threads} \
            -m peekaboo.synth.train {wildcards.network} --settings {input.settings} \
            --renders {input.renders} {params.before} \
            --checkpoints training/{wildcards.network} --output {output.weights} >{log} 2>&1
        """


rule train_embedded:
    """Train all embedded networks and put them where the registry looks for them."""
    input:
        expand("training/{network}.safetensors", network=TRAINED_BEFORE),
    log:
        "logs/training/install.log",
    localrule: True
    conda:
        "../envs/peekaboo.yaml"
    params:
        folder=f"{HOME}/resources/embedded",
    shell:
        "install -m 644 {input} {params.folder} > {log} 2>&1"
