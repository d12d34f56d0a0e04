rule traverse:
    input:
        latents="results/{clip}/invert.h5",
        scorers="results/{clip}/score.h5",
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
    threads: 1
    resources:
        mem_mb=memory("traverse", CLIPS),
        runtime=minutes("traverse", CLIPS),
    params:
        options=options(config["traverse"]),
    message:
        "{wildcards.clip}: walk away from the identity"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.stages.traverse \
            --latents {input.latents} --scorers {input.scorers} \
            {params.options} --output {output.latents} --report {output.report} >{log} 2>&1
        """
