rule decode:
    input:
        latents=latents,
        tuned=own_generator,
        generator=WEIGHTS["generator"],
        code=code("peekaboo.stages.decode"),
    output:
        crops="results/{clip}/{method}/decode.h5",
        report="results/{clip}/{method}/decode.json",
    log:
        "logs/{clip}/{method}/decode.log",
    benchmark:
        "benchmarks/{clip}/{method}/decode.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        gpu=GPU,
        mem_mb=memory("decode", CLIPS),
        runtime=minutes("decode", CLIPS),
    params:
        device=config["device"],
        tuned=option("tuned"),
        options=options(config["decode"], device=config["device"]),
    message:
        "{wildcards.clip}: decode the faces of {wildcards.method}"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.lease {params.device} peekaboo.stages.decode \
            --latents {input.latents} --generator {input.generator} {params.tuned} \
            {params.options} --output {output.crops} --report {output.report} >{log} 2>&1
        """
