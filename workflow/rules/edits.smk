rule fit_probe:
    input:
        "data/images/train/index.json",
        MANIFEST,
        f"features/{COMPARE.judge}/train/index.json",
        f"models/backbones/{COMPARE.judge}/model.safetensors",
        SEGMENTERS,
    output:
        "models/probes/{probe}/probe.safetensors",
        "models/probes/{probe}/accuracy.json",
        "models/probes/{probe}/record.json",
    log:
        "logs/fit_probe/{probe}.log",
    benchmark:
        "logs/fit_probe/{probe}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("fit_probe"),
        parameters=parameters_of("fit_probe"),
    shell:
        "launch 1 1 stages.fit_probe --probe {wildcards.probe} 2>&1 | tee {log}"


# Waits for everything that any method or edit needs, as its DVC stage does.
rule draw_edits:
    input:
        expand("data/images/{split}/index.json", split=("train", "test")),
        MANIFEST,
        expand("features/{{backbone}}/{split}/index.json", split=("train", "test")),
        expand(f"features/{COMPARE.judge}/{{split}}/index.json", split=("train", "test")),
        "models/backbones/{backbone}/model.safetensors",
        f"models/backbones/{COMPARE.judge}/model.safetensors",
        SEGMENTERS,
        expand("models/probes/{probe}/probe.safetensors", probe=COMPARE.probes),
        PRIOR,
        expand("adapters/{{backbone}}/{adapter}/adapter.safetensors", adapter=COMPARE.adapters),
        expand("decoders/{{backbone}}/{decoder}/decoder.safetensors", decoder=COMPARE.decoders),
        expand("concepts/{{backbone}}/{concepts}/directions.safetensors", concepts=COMPARE.concepts),
    output:
        "edits/{backbone}/{edit}/scores.parquet",
        "edits/{backbone}/{edit}/examples.safetensors",
        "edits/{backbone}/{edit}/record.json",
    log:
        "logs/draw_edits/{backbone}-{edit}.log",
    benchmark:
        "logs/draw_edits/{backbone}-{edit}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("draw_edits"),
        parameters=parameters_of("draw_edits"),
    shell:
        "launch 1 1 stages.draw_edits --backbone {wildcards.backbone} --edit {wildcards.edit}"
        " 2>&1 | tee {log}"


rule plot_edits:
    input:
        expand(
            "edits/{backbone}/{{edit}}/{file}",
            backbone=COMPARE.backbones,
            file=("scores.parquet", "examples.safetensors"),
        ),
    output:
        report(
            "results/edits/{edit}.csv",
            category="Edits",
            caption="../report/edits.rst",
        ),
        report(
            "results/edits/{edit}.png",
            category="Edits",
            caption="../report/edits.rst",
        ),
        report(
            "results/edits/{edit}_examples.png",
            category="Edits",
            caption="../report/edits_examples.rst",
        ),
        "results/edits/{edit}.md",
        "results/edits/{edit}.pdf",
        "results/edits/{edit}_examples.pdf",
        "results/edits/{edit}.record.json",
    log:
        "logs/plot_edits/{edit}.log",
    benchmark:
        "logs/plot_edits/{edit}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("plot_edits"),
        parameters=parameters_of("plot_edits"),
    shell:
        "launch 1 1 stages.plot_edits --edit {wildcards.edit} 2>&1 | tee {log}"


rule plot_disentanglement:
    input:
        expand("edits/{backbone}/{{edit}}/scores.parquet", backbone=COMPARE.backbones),
        expand("models/probes/{probe}/accuracy.json", probe=COMPARE.probes),
    output:
        report(
            "results/disentanglement/{edit}.csv",
            category="Edits",
            caption="../report/disentanglement.rst",
        ),
        report(
            "results/disentanglement/{edit}.png",
            category="Edits",
            caption="../report/disentanglement.rst",
        ),
        "results/disentanglement/{edit}.pdf",
        "results/disentanglement/{edit}.record.json",
    log:
        "logs/plot_disentanglement/{edit}.log",
    benchmark:
        "logs/plot_disentanglement/{edit}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("plot_disentanglement"),
        parameters=parameters_of("plot_disentanglement"),
    shell:
        "launch 1 1 stages.plot_disentanglement --edit {wildcards.edit} 2>&1 | tee {log}"
