rule draw_samples:
    input:
        "features/{backbone}/test/index.json",
        needed_by_method,
    output:
        "samples/{backbone}/{method}/index.json",
        "samples/{backbone}/{method}/record.json",
    log:
        "logs/draw_samples/{backbone}-{method}.log",
    benchmark:
        "logs/draw_samples/{backbone}-{method}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        nodes=1,
        processes=1,
    params:
        version=version_of("draw_samples"),
        parameters=parameters_of("draw_samples"),
    shell:
        "launch {resources.nodes} {resources.processes} stages.draw_samples --backbone {wildcards.backbone}"
        " --method {wildcards.method} 2>&1 | tee {log}"


# Waits for everything that any method needs, as its DVC stage does.
rule sweep_method:
    input:
        expand("data/images/{split}/index.json", split=("train", "val")),
        MANIFEST,
        expand(
            "features/{network}/{split}/index.json",
            network=COMPARE.networks,
            split=("train", "val"),
        ),
        expand("models/backbones/{network}/model.safetensors", network=COMPARE.networks),
        SEGMENTERS,
        PRIOR,
        TRAINING,
        DECODERS,
    output:
        report(
            "results/sweeps/{sweep}.csv",
            category="Sweeps",
            caption="../report/sweep.rst",
        ),
        report(
            "results/sweeps/{sweep}.png",
            category="Sweeps",
            caption="../report/sweep.rst",
        ),
        "results/sweeps/{sweep}.pdf",
        "results/sweeps/{sweep}.record.json",
    log:
        "logs/sweep_method/{sweep}.log",
    benchmark:
        "logs/sweep_method/{sweep}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("sweep_method"),
        parameters=parameters_of("sweep_method"),
    shell:
        "launch 1 1 stages.sweep_method --sweep {wildcards.sweep} 2>&1 | tee {log}"


rule score_samples:
    input:
        "samples/{backbone}/{method}/index.json",
        "data/images/test/index.json",
        MANIFEST,
        "features/{backbone}/test/index.json",
        expand(
            "features/{judge}/{split}/index.json",
            judge=COMPARE.judge,
            split=("train", "test"),
        ),
        "models/backbones/{backbone}/model.safetensors",
        f"models/backbones/{COMPARE.judge}/model.safetensors",
        SEGMENTERS,
    output:
        "scores/{backbone}/{method}.parquet",
        "scores/{backbone}/{method}.sets.json",
        "scores/{backbone}/{method}.record.json",
    log:
        "logs/score_samples/{backbone}-{method}.log",
    benchmark:
        "logs/score_samples/{backbone}-{method}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        nodes=1,
        processes=1,
    params:
        version=version_of("score_samples"),
        parameters=parameters_of("score_samples"),
    shell:
        "launch {resources.nodes} {resources.processes} stages.score_samples --backbone {wildcards.backbone}"
        " --method {wildcards.method} 2>&1 | tee {log}"


rule score_references:
    input:
        f"samples/{{backbone}}/{COMPARE.main_method}/index.json",
        expand("data/images/{split}/index.json", split=("train", "test")),
        MANIFEST,
        "latents/round_trip/index.json",
        "features/{backbone}/test/index.json",
        expand(
            "features/{judge}/{split}/index.json",
            judge=COMPARE.judge,
            split=("train", "test"),
        ),
        "models/backbones/{backbone}/model.safetensors",
        f"models/backbones/{COMPARE.judge}/model.safetensors",
        SEGMENTERS,
    output:
        "scores/{backbone}/references.parquet",
        "scores/{backbone}/references.sets.json",
        "scores/{backbone}/references.record.json",
    log:
        "logs/score_references/{backbone}.log",
    benchmark:
        "logs/score_references/{backbone}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        nodes=1,
        processes=1,
    params:
        version=version_of("score_references"),
        parameters=parameters_of("score_references"),
    shell:
        "launch {resources.nodes} {resources.processes} stages.score_references --backbone {wildcards.backbone} 2>&1 | tee {log}"


ruleorder: score_references > score_samples
