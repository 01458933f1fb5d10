# Waits for everything that any method needs, as its DVC stage does.
rule measure_robustness:
    input:
        expand("data/images/{split}/index.json", split=("train", "test")),
        MANIFEST,
        expand("features/{{backbone}}/{split}/index.json", split=("train", "test")),
        "models/backbones/{backbone}/model.safetensors",
        # How it looks at images: no cached features of the judge are read here that would tell.
        f"models/backbones/{COMPARE.judge}/config.json",
        f"models/backbones/{COMPARE.judge}/model.safetensors",
        PRIOR,
        expand("adapters/{{backbone}}/{adapter}/adapter.safetensors", adapter=COMPARE.adapters),
        expand("decoders/{{backbone}}/{decoder}/decoder.safetensors", decoder=COMPARE.decoders),
    output:
        "robustness/{backbone}/{disturbance}/scores.parquet",
        "robustness/{backbone}/{disturbance}/examples.safetensors",
        "robustness/{backbone}/{disturbance}/record.json",
    log:
        "logs/measure_robustness/{backbone}-{disturbance}.log",
    benchmark:
        "logs/measure_robustness/{backbone}-{disturbance}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("measure_robustness"),
        parameters=parameters_of("measure_robustness"),
    shell:
        "launch 1 1 stages.measure_robustness --backbone {wildcards.backbone}"
        " --disturbance {wildcards.disturbance} 2>&1 | tee {log}"


rule plot_robustness:
    input:
        expand(
            "robustness/{backbone}/{{disturbance}}/scores.parquet",
            backbone=COMPARE.backbones,
        ),
        expand(
            "robustness/{backbone}/{{disturbance}}/examples.safetensors",
            backbone=COMPARE.backbones,
        ),
    output:
        report(
            "results/robustness/{disturbance}.csv",
            category="Robustness",
            caption="../report/robustness.rst",
        ),
        report(
            "results/robustness/{disturbance}.png",
            category="Robustness",
            caption="../report/robustness.rst",
        ),
        report(
            "results/robustness/{disturbance}_examples.png",
            category="Robustness",
            caption="../report/robustness_examples.rst",
        ),
        "results/robustness/{disturbance}.pdf",
        "results/robustness/{disturbance}_examples.pdf",
        "results/robustness/{disturbance}.record.json",
    log:
        "logs/plot_robustness/{disturbance}.log",
    benchmark:
        "logs/plot_robustness/{disturbance}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("plot_robustness"),
        parameters=parameters_of("plot_robustness"),
    shell:
        "launch 1 1 stages.plot_robustness --disturbance {wildcards.disturbance} 2>&1 | tee {log}"
