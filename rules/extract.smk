checkpoint extract:
    input:
        clip="results/{clip}/source",
        code=code("peekaboo.stages.extract"),
    output:
        faces="results/{clip}/extract.h5",
        report="results/{clip}/extract.json",
    log:
        "logs/{clip}/extract.log",
    benchmark:
        "benchmarks/{clip}/extract.jsonl"
    conda:
        "../envs/peekaboo.yaml"
    threads: 4
    resources:
        mem_mb=memory("extract", CLIPS),
        runtime=minutes("extract", CLIPS),
    params:
        options=options(
            config["extract"],
            resolution=resolution(
                WEIGHTS["generator"],
                REGISTRY[config["models"]["generator"]]["resolution"],
            ),
        ),
    message:
        "{wildcards.clip}: find, follow and align faces"
    shell:
        """
        rm -f results/{wildcards.clip}/withheld.json
        OMP_NUM_THREADS={threads} python -m peekaboo.stages.extract \
            --clip {input.clip} --id {wildcards.clip} {params.options} \
            --output {output.faces} --report {output.report} >{log} 2>&1
        """
