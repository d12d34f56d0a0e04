rule withhold:
    input:
        extract="results/{clip}/extract.json",
        code=code("peekaboo.stages.withhold"),
    output:
        reason="results/{clip}/withheld.json",
        report="results/{clip}/withhold.json",
    log:
        "logs/{clip}/withhold.log",
    benchmark:
        "benchmarks/{clip}/withhold.jsonl"
    localrule: True
    conda:
        "../envs/peekaboo.yaml"
    message:
        "{wildcards.clip}: withhold"
    shell:
        """
        python -m peekaboo.stages.withhold --extract {input.extract} \
            --output {output.reason} --report {output.report} >{log} 2>&1
        """
