rule invert:
    input:
        faces="results/{clip}/extract.h5",
        generator=WEIGHTS["generator"],
        encoder=WEIGHTS["encoder"],
        code=code("peekaboo.stages.invert"),
    output:
        latents="results/{clip}/invert.h5",
        report="results/{clip}/invert.json",
    log:
        "logs/{clip}/invert.log",
    benchmark:
        "benchmarks/{clip}/invert.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        gpu=GPU,
        mem_mb=memory("invert", CLIPS),
        runtime=minutes("invert", CLIPS),
    params:
        device=config["device"],
        options=options(config["invert"], device=config["device"]),
    message:
        "{wildcards.clip}: find the latents of the faces"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.lease {params.device} peekaboo.stages.invert \
            --faces {input.faces} --generator {input.generator} --encoder {input.encoder} \
            {params.options} --output {output.latents} --report {output.report} >{log} 2>&1
        """
