# The one place that knows where a clip lies: the other rules' commands, and so Snakemake's own log, show only its id.
rule source:
    input:
        original(CLIPS, NO_CLIPS),
    output:
        "results/{clip}/source",
    log:
        "logs/{clip}/source.log",
    localrule: True
    conda:
        "../envs/peekaboo.yaml"
    params:
        stamp=stamp(CLIPS),
    message:
        "{wildcards.clip}: link the clip"
    shell:
        'ln -sfn "$(realpath {input:q})" {output} > {log} 2>&1'
