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
        OMP_NUM_THREADS={threads} python -m peekaboo.synth.chain benchmark \
            --results results --truths synthetic --head {input.head:q} --clips {params.clips} --methods {params.methods} {params.embedded} \
            --table {output.table} --summary {output.summary} --page {output.page} >{log} 2>&1
        """


rule sweep:
    """Try weight decay, top_k and length of the walk on rendered clips that are not in the benchmark."""
    input:
        expand(
            "results/{clip}/{file}",
            clip=SWEEP_IDS,
            file=("source", "extract.h5", "invert.h5", "tune.h5"),
        ),
        generator=WEIGHTS["generator"],
        identity=WEIGHTS["identity"],
        affect=WEIGHTS["affect"],
        embedded=if_there("benchmark/embedded.json"),
        code=code("peekaboo.synth.chain"),
    output:
        table="benchmark/sweep.tsv",
        plot="benchmark/sweep.png",
    log:
        "logs/benchmark/sweep.log",
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        gpu=GPU,
        mem_mb=6000,
        runtime=60,
    params:
        device=config["device"],
        clips=SWEEP_IDS,
        embedded=option("embedded"),
        options=options(
            {
                name: config["score"][name]
                for name in (
                    "samples",
                    "clip_samples",
                    "batch",
                    "threshold",
                    "weight_decay",
                )
            },
            **config["traverse"],
            seed=config["seed"],
            device=config["device"],
        ),
    message:
        "Try settings of the walk"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.lease {params.device} peekaboo.synth.chain sweep \
            --results results --clips {params.clips} {params.embedded} \
            --generator {input.generator} --identity {input.identity} --affect {input.affect} \
            {params.options} --table {output.table} --plot {output.plot} 2>&1 | tee {log}
        """
