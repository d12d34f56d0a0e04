rule score:
    input:
        latents="results/{clip}/invert.h5",
        tuned="results/{clip}/tune.h5",
        generator=WEIGHTS["generator"],
        identity=WEIGHTS["identity"],
        affect=WEIGHTS["affect"],
        code=code("peekaboo.stages.score"),
    output:
        scorers="results/{clip}/score.h5",
        report="results/{clip}/score.json",
    log:
        "logs/{clip}/score.log",
    benchmark:
        "benchmarks/{clip}/score.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        gpu=GPU,
        mem_mb=memory("score", CLIPS),
        runtime=minutes("score", CLIPS),
    params:
        device=config["device"],
        options=options(config["score"], seed=config["seed"], device=config["device"]),
    message:
        "{wildcards.clip}: fit the scorers"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.lease {params.device} peekaboo.stages.score \
            --latents {input.latents} --tuned {input.tuned} --generator {input.generator} \
            --identity {input.identity} --affect {input.affect} \
            {params.options} --output {output.scorers} --report {output.report} >{log} 2>&1
        """
