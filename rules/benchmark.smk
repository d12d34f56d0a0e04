rule benchmark_embedded:
    """Measure the embedded networks on held-out renders and bring their cards up to date."""
    input:
        networks=expand(
            f"{HOME}/resources/embedded/{{network}}.safetensors",
            network=TRAINED_BEFORE,
        ),
        settings=f"{HOME}/resources/embedded/training.yaml",
        head=config["head"],
        mobilefacenet=config["mobilefacenet"] or [],
        extract="results/sweep-1/extract.h5",
        decode="results/sweep-1/pti/decode.h5",
        code=code("peekaboo.synth.benchmark"),
    output:
        results="benchmark/embedded.json",
        table="benchmark/embedded.md",
        sheets=expand(
            "benchmark/embedded/{sheet}.png", sheet=["samples", "walk", "inversions"]
        ),
    log:
        "logs/benchmark/embedded.log",
    benchmark:
        "benchmarks/embedded.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=30,
    params:
        folder=subpath(input.settings, parent=True),
        mobilefacenet=option("mobilefacenet"),
    message:
        "Measure the embedded networks"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.synth.benchmark \
            --settings {input.settings:q} --head {input.head:q} --networks {params.folder:q} \
            --extract {input.extract} --decode {input.decode} {params.mobilefacenet} \
            --output {output.results} --table {output.table} --sheets benchmark/embedded >{log} 2>&1
        """
