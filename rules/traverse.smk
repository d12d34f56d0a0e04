rule traverse:
    input:
        faces="results/{clip}/extract.h5",
        latents="results/{clip}/invert.h5",
        tuned="results/{clip}/tune.h5",
        scorers="results/{clip}/score.h5",
        generator=WEIGHTS["generator"],
        identity=WEIGHTS["identity"],
        affect=WEIGHTS["affect"],
        code=code("peekaboo.stages.traverse"),
    output:
        latents="results/{clip}/traverse.h5",
        report="results/{clip}/traverse.json",
    log:
        "logs/{clip}/traverse.log",
    benchmark:
        "benchmarks/{clip}/traverse.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        gpu=GPU,
        mem_mb=memory("traverse", CLIPS),
        runtime=minutes("traverse", CLIPS),
    params:
        device=config["device"],
        options=options(
            config["traverse"], seed=config["seed"], device=config["device"]
        ),
    message:
        "{wildcards.clip}: walk away from the identity"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.lease {params.device} peekaboo.stages.traverse \
            --faces {input.faces} --latents {input.latents} --tuned {input.tuned} --scorers {input.scorers} \
            --generator {input.generator} --identity {input.identity} --affect {input.affect} \
            {params.options} --output {output.latents} --report {output.report} >{log} 2>&1
        """
