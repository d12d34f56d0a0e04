rule sweep:
    """Try top_k, steps and length of the walk on rendered clips that are not in the benchmark."""
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
        code=code("peekaboo.synth.sweep"),
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
        OMP_NUM_THREADS={threads} python -m peekaboo.lease {params.device} peekaboo.synth.sweep \
            --results results --clips {params.clips} {params.embedded} \
            --generator {input.generator} --identity {input.identity} --affect {input.affect} \
            {params.options} --table {output.table} --plot {output.plot} 2>&1 | tee {log}
        """
