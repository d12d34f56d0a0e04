rule synth_clip:
    """Render a scripted clip and its ground truth."""
    input:
        head=config["head"],
        code=code("peekaboo.synth.clips"),
    output:
        clip="synthetic/{clip}.mp4",
        truth="synthetic/{clip}.npz",
    log:
        "logs/synthetic/{clip}.log",
    benchmark:
        "benchmarks/synthetic/{clip}.jsonl"
    wildcard_constraints:
        clip="|".join(RENDERED),
    conda:
        "../envs/peekaboo.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "Render {wildcards.clip}"
    shell:
        """
        OMP_NUM_THREADS={threads} python -m peekaboo.synth.clips --head {input.head:q} --id {wildcards.clip} \
            --output {output.clip} --truth {output.truth} >{log} 2>&1
        """


rule synth_clips:
    """Render the benchmark's clips and those by which settings are chosen."""
    input:
        [clip.path for clip in RENDERED.values()],
    localrule: True
