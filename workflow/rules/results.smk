SAMPLES = expand(
    "samples/{backbone}/{method}/index.json",
    backbone=COMPARE.backbones,
    method=COMPARE.methods,
)
SCORES = expand(
    "scores/{backbone}/{method}.parquet",
    backbone=COMPARE.backbones,
    method=[*COMPARE.methods, "references"],
)
# What the runs cost, and distances of sets, which tables tell too.
RECORDS = [
    *(path.replace("index.json", "record.json") for path in SAMPLES),
    *(path.replace(".parquet", ".sets.json") for path in SCORES),
    *(path.replace("training.json", "record.json") for path in TRAINING),
]
# By content: their paths would make a repository that was moved stale.
CAPTIONS = digest(
    {path.name: path.read_text() for path in (ROOT / "workflow/report").glob("*.rst")}
)


rule make_tables:
    input:
        SAMPLES,
        SCORES,
        RECORDS,
        TRAINING,
        DECODERS,
    output:
        report(
            "results/tables/main.csv",
            category="Tables",
            caption="../report/main.rst",
        ),
        report(
            "results/tables/checks.csv",
            category="Tables",
            caption="../report/checks.rst",
        ),
        report(
            "results/tables/training.csv",
            category="Tables",
            caption="../report/training_table.rst",
        ),
        "results/tables/main.md",
        "results/tables/methods.md",
        "results/tables/metrics.json",
        "results/tables/record.json",
    log:
        "logs/make_tables.log",
    benchmark:
        "logs/make_tables.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("make_tables"),
        parameters=parameters_of("make_tables"),
    shell:
        "launch 1 1 stages.make_tables 2>&1 | tee {log}"


rule plot_figures:
    input:
        SAMPLES,
        SCORES,
        TRAINING,
        "results/tables/main.csv",
        "data/images/test/index.json",
        MANIFEST,
        "latents/round_trip/index.json",
    output:
        report(
            "results/figures/reconstructions.png",
            category="Figures",
            caption="../report/reconstructions.rst",
        ),
        report(
            "results/figures/scores.png",
            category="Figures",
            caption="../report/scores.rst",
        ),
        report(
            "results/figures/tradeoffs.png",
            category="Figures",
            caption="../report/tradeoffs.rst",
        ),
        report(
            "results/figures/training.png",
            category="Figures",
            caption="../report/training.rst",
        ),
        expand(
            "results/figures/{name}.pdf",
            name=("reconstructions", "scores", "tradeoffs", "training"),
        ),
        "results/figures/record.json",
    log:
        "logs/plot_figures.log",
    benchmark:
        "logs/plot_figures.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("plot_figures"),
        parameters=parameters_of("plot_figures"),
    shell:
        "launch 1 1 stages.plot_figures 2>&1 | tee {log}"


rule plot_layers:
    input:
        SAMPLES,
        "results/tables/main.csv",
        "data/images/test/index.json",
        MANIFEST,
    output:
        report(
            "results/layers/{layers}.png",
            category="Layers",
            caption="../report/layers.rst",
        ),
        "results/layers/{layers}.pdf",
        "results/layers/{layers}.record.json",
    log:
        "logs/plot_layers/{layers}.log",
    benchmark:
        "logs/plot_layers/{layers}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("plot_layers"),
        parameters=parameters_of("plot_layers"),
    shell:
        "launch 1 1 stages.plot_layers --layers {wildcards.layers} 2>&1 | tee {log}"


rule plot_prior:
    input:
        PRIOR,
        "data/images/test/index.json",
    output:
        report(
            "results/figures/prior_samples.png",
            category="Figures",
            caption="../report/prior_samples.rst",
        ),
        "results/figures/prior_samples.pdf",
        "results/figures/prior_samples.record.json",
    log:
        "logs/plot_prior.log",
    benchmark:
        "logs/plot_prior.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("plot_prior"),
        parameters=parameters_of("plot_prior"),
    shell:
        "launch 1 1 stages.plot_prior 2>&1 | tee {log}"


rule write_report:
    input:
        expand("results/tables/{name}.csv", name=("main", "checks", "training")),
        "results/tables/main.md",
        expand(
            "results/figures/{name}.png",
            name=(
                "reconstructions",
                "scores",
                "tradeoffs",
                "training",
                "prior_samples",
            ),
        ),
        [str(path) for _, _, path in more_figures(COMPARE)],
    output:
        "results/report.html",
    log:
        "logs/write_report.log",
    benchmark:
        "logs/write_report.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("write_report"),
        captions=CAPTIONS,
        parameters=parameters_of("write_report"),
    shell:
        "launch 1 1 stages.write_report 2>&1 | tee {log}"
