rule compose:
    input:
        clip="results/{clip}/source",
        faces="results/{clip}/extract.h5",
        crops=decoded,
        code=code("peekaboo.stages.compose"),
    output:
        video="results/{clip}/{method}/anonymized.mp4",
        coverage="results/{clip}/{method}/compose.h5",
        report="results/{clip}/{method}/compose.json",
    log:
        "logs/{clip}/{method}/compose.log",
    benchmark:
        "benchmarks/{clip}/{method}/compose.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        mem_mb=memory("compose", CLIPS),
        runtime=minutes("compose", CLIPS),
    params:
        crops=option("crops"),
        options=options(
            {name: config[name] for name in ("bystanders", "compose", "lossless")}
        ),
        audio=sound(CLIPS),
    message:
        "{wildcards.clip}: put the faces of {wildcards.method} into the clip"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.stages.compose \
            --clip {input.clip} --faces {input.faces} --method {wildcards.method} \
            {params.crops} {params.options} {params.audio} \
            --output {output.video} --coverage {output.coverage} --report {output.report} >{log} 2>&1
        """
