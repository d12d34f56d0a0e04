rule tune:
    input:
        faces="results/{clip}/extract.h5",
        latents="results/{clip}/invert.h5",
        generator=WEIGHTS["generator"],
        perceptual=WEIGHTS["perceptual"],
        code=code("peekaboo.stages.tune"),
    output:
        tuned="results/{clip}/tune.h5",
        report="results/{clip}/tune.json",
    log:
        "logs/{clip}/tune.log",
    benchmark:
        "benchmarks/{clip}/tune.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        gpu=GPU,
        mem_mb=memory("tune", CLIPS),
        runtime=minutes("tune", CLIPS),
    params:
        device=config["device"],
        options=options(config["tune"], seed=config["seed"], device=config["device"]),
    message:
        "{wildcards.clip}: tune the generator to the faces"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.lease {params.device} peekaboo.stages.tune \
            --faces {input.faces} --latents {input.latents} \
            --generator {input.generator} --perceptual {input.perceptual} \
            {params.options} --output {output.tuned} --report {output.report} >{log} 2>&1
        """
