rule measure:
    input:
        original="results/{clip}/source",
        anonymized="results/{clip}/{method}/anonymized.mp4",
        faces="results/{clip}/extract.h5",
        coverage="results/{clip}/{method}/compose.h5",
        identity=WEIGHTS["identity"],
        affect=WEIGHTS["affect"],
        judges=[path for files in JUDGES.values() for path in files],
        code=judge_code(JUDGES, code),
    output:
        metrics="results/{clip}/{method}/metrics.tsv",
        summary="results/{clip}/{method}/summary.json",
        report="results/{clip}/{method}/measure.json",
    log:
        "logs/{clip}/{method}/measure.log",
    benchmark:
        "benchmarks/{clip}/{method}/measure.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        gpu=GPU,
        mem_mb=memory("measure", CLIPS),
        runtime=minutes("measure", CLIPS),
    params:
        device=config["device"],
        judges=judge_options(JUDGES),
        options=options({}, device=config["device"]),
    message:
        "{wildcards.clip}: measure {wildcards.method}"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.lease {params.device} peekaboo.stages.measure \
            --original {input.original} --anonymized {input.anonymized} \
            --faces {input.faces} --coverage {input.coverage} --method {wildcards.method} \
            --identity {input.identity} --affect {input.affect} --judges {params.judges} {params.options} \
            --metrics {output.metrics} --summary {output.summary} --report {output.report} >{log} 2>&1
        """
