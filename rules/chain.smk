rule benchmark_synthetic:
    """Measure every method on the rendered benchmark clips, against their truth."""
    input:
        *(outcome(clip, ALL_METHODS, checkpoints) for clip in BENCHMARK_IDS),
        faces=expand("results/{clip}/extract.h5", clip=BENCHMARK_IDS),
        truths=expand("synthetic/{clip}.npz", clip=BENCHMARK_IDS),
        head=config["head"],
        embedded=if_there("benchmark/embedded.json"),
        code=code("peekaboo.synth.chain"),
    output:
        table="benchmark/synthetic.tsv",
        summary="benchmark/synthetic.json",
        page="benchmark/synthetic.md",
    log:
        "logs/benchmark/synthetic.log",
    conda:
        "../envs/peekaboo.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        clips=BENCHMARK_IDS,
        methods=ALL_METHODS,
        embedded=option("embedded"),
    message:
        "Compare the methods on the rendered clips"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.synth.chain \
            --results results --truths synthetic --head {input.head:q} --clips {params.clips} --methods {params.methods} {params.embedded} \
            --table {output.table} --summary {output.summary} --page {output.page} >{log} 2>&1
        """
