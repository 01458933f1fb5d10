rule find_concepts:
    input:
        "data/images/train/index.json",
        MANIFEST,
        "features/{backbone}/train/index.json",
        "models/backbones/{backbone}/model.safetensors",
    output:
        "concepts/{backbone}/{concepts}/directions.safetensors",
        "concepts/{backbone}/{concepts}/patches.safetensors",
        "concepts/{backbone}/{concepts}/accuracy.json",
        "concepts/{backbone}/{concepts}/record.json",
    log:
        "logs/find_concepts/{backbone}-{concepts}.log",
    benchmark:
        "logs/find_concepts/{backbone}-{concepts}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("find_concepts"),
        parameters=parameters_of("find_concepts"),
    shell:
        "launch 1 1 stages.find_concepts --backbone {wildcards.backbone}"
        " --concepts {wildcards.concepts} 2>&1 | tee {log}"


rule plot_concepts:
    input:
        expand(
            "concepts/{backbone}/{{concepts}}/{file}",
            backbone=COMPARE.backbones,
            file=("directions.safetensors", "patches.safetensors", "accuracy.json"),
        ),
    output:
        report(
            "results/concepts/{concepts}.csv",
            category="Concepts",
            caption="../report/concepts.rst",
        ),
        report(
            "results/concepts/{concepts}.png",
            category="Concepts",
            caption="../report/concepts.rst",
        ),
        "results/concepts/{concepts}.pdf",
        "results/concepts/{concepts}.record.json",
    log:
        "logs/plot_concepts/{concepts}.log",
    benchmark:
        "logs/plot_concepts/{concepts}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("plot_concepts"),
        parameters=parameters_of("plot_concepts"),
    shell:
        "launch 1 1 stages.plot_concepts --concepts {wildcards.concepts} 2>&1 | tee {log}"
