rule report:
    input:
        needed(NO_CLIPS),
        *(outcome(clip, METHODS, checkpoints) for clip in CLIPS),
        originals=expand("results/{clip}/source", clip=CLIPS),
        templates=page_parts(HOME),
        code=code("peekaboo.stages.report"),
    output:
        table="results/table.tsv",
        page="results/report/index.html",
        report="results/report/report.json",
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        mem_mb=report_memory,
        runtime=report_minutes(CLIPS, METHODS),
    params:
        clips=expand("{clip}=results/{clip}/source", clip=CLIPS),
        methods=METHODS,
    message:
        "Write the table and the page"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.stages.report --results results \
            --clips {params.clips} --methods {params.methods} \
            --table {output.table} --page {output.page} --report {output.report} >{log} 2>&1
        """
